-- Sets the first tick of a function's schedule, unless another daemon has, or its text has changed.
-- $1 id, $2 cron as it was read, $3 next tick
update slayq.schedule set next_at = $3, planned = true where id = $1 and cron = $2 and not planned
