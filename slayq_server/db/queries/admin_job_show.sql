-- One job with all there is to say about it; by its id, or by its key.
-- $1 id bigint or null, $2 job key or null
select j.id, j.queue, j.state, j.event, j.job_key, j.serial_queue, j.priority, j.run_at, j.attempts, j.max_attempts,
    j.last_error, coalesce(j.flags, '{}') as flags, j.created_at, j.updated_at, j.worker_id, j.leased_at, j.lease,
    j.revision, j.superseded, j.cancelled, w.name as worker, j.payload, j.patches
from slayq.job j
left join slayq.worker w on w.id = j.worker_id
where j.id = $1 or j.job_key = $2
