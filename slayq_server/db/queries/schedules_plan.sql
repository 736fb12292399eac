-- Sets the first tick of a function's schedule, unless another daemon has, its text has changed, or an app is registering.
-- $1 id, $2 cron as it was read, $3 next tick
update slayq.schedule set next_at = $3, planned = true
where id = (
    select s.id from slayq.schedule s where s.id = $1 and s.cron = $2 and not s.planned for update skip locked
)
