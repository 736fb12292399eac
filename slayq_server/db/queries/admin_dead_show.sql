-- One dead letter with its payload.
-- $1 id bigint
select d.id, d.queue, d.reason, d.event, d.job_key, d.serial_queue, d.priority, d.attempts, d.max_attempts, d.last_error,
    coalesce(d.flags, '{}') as flags, d.run_at, d.created_at, d.died_at, d.payload, d.patches
from slayq.dead_letter d where d.id = $1
