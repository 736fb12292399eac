-- The jobs that had failed for good, and those that cannot be delivered.
insert into slayq.dead_letter (id, queue, reason, priority, attempts, max_attempts, job_key, serial_queue, event,
    match_terms, flags, payload, last_error, run_at, created_at)
select id, queue, reason, priority, attempts, max_attempts, job_key, serial_queue, coalesce(event, ''),
    match_terms, flags, payload, error, run_at, created_at
from pg_temp.slayq_moving
where reason is not null
order by id
