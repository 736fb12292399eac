-- The jobs that go on here.
insert into slayq.job (id, queue, state, priority, run_at, attempts, max_attempts, revision, job_key, serial_queue, event,
    match_terms, flags, payload, last_error, created_at)
overriding system value
select id, queue, state, priority, run_at, attempts, max_attempts, revision, job_key, serial_queue, event,
    match_terms, flags, payload, error, created_at
from pg_temp.slayq_moving
where reason is null
order by id
