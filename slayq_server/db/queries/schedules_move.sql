-- Moves a schedule on, in the transaction that fired it.
-- $1 id, $2 next tick, $3 the last tick fired, or null
update slayq.schedule set next_at = $2, last_at = coalesce($3, last_at), seen_at = now() where id = $1
