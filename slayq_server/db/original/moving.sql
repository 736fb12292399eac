-- What is taken over now, and what becomes of it: each of Graphile Worker's jobs that has not been yet, with the id it
-- gets here and, if it goes to the dead letters, the reason. The statements that follow read this table.
--
-- Graphile Worker holds a lock for four hours. A locked job whose attempts are used up is on its last one, or has been
-- replaced or removed under its key meanwhile (Graphile Worker marks that so): it must not run again by itself.
create temporary table slayq_moving on commit drop as
select
    nextval('slayq.job_id_seq') as id,
    job.*,
    slayq._entry_state_1(job.serial_queue, job.run_at) as state,
    inspected.event, inspected.match_terms,
    case
        when job.attempts < job.max_attempts and inspected.fault is null then null
        when job.attempts < job.max_attempts then 'undeliverable'
        when job.locked then 'lease-lost'
        else 'attempts-exhausted'
    end as reason,
    case
        when job.attempts < job.max_attempts and inspected.fault is not null
            then concat_ws('; before: ', 'taken over, but ' || inspected.fault, job.last_error)
        when job.attempts >= job.max_attempts and job.locked
            then concat_ws('; before: ', 'taken over while an old worker was delivering the last attempt', job.last_error)
        else job.last_error
    end as error
from (
    select
        old.id as graphile_id, task.identifier as queue, queue.queue_name as serial_queue, old.payload, old.priority,
        -- Graphile Worker takes "infinity" for a time.
        least(
            greatest(old.run_at, old.locked_at + interval '4 hours', timestamptz '1970-01-01 00:00:00+00'),
            timestamptz '9999-12-31 23:59:59.999+00'
        ) as run_at,
        old.attempts, old.max_attempts, old.last_error, old.created_at, old.key as job_key, old.revision,
        (select array_agg(flag) from jsonb_object_keys(old.flags) as flag) as flags,
        old.locked_at is not null as locked
    from graphile_worker._private_jobs as old
    join graphile_worker._private_tasks as task on task.id = old.task_id
    left join graphile_worker._private_job_queues as queue on queue.id = old.job_queue_id
    where old.locked_by is distinct from 'slayq-server'
    order by old.id
) as job
cross join lateral slayq._inspect_job_1(
    job.queue, job.payload, job.serial_queue, job.run_at, job.max_attempts, job.job_key, job.priority
) as inspected
