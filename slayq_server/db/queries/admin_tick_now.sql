-- Makes a schedule's next tick due now, for the daemon that fires it: what `demo` does rather than wait for the minute.
-- $1 schedule id
update slayq.schedule set next_at = now() where id = $1 and next_at > now()
