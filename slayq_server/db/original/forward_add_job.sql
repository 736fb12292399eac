-- Graphile Worker's add_job, writing here. It runs with its caller's rights, as before, who needs ours to slayq.add_job.
-- Of the row that it returns, what only Graphile Worker's own tables have is null, and so is the payload.
create or replace function graphile_worker.add_job(
    identifier text, payload json default null, queue_name text default null, run_at timestamptz default null,
    max_attempts integer default null, job_key text default null, priority integer default null,
    flags text[] default null, job_key_mode text default 'replace'
) returns graphile_worker._private_jobs language sql volatile as $$
    select jsonb_populate_record(null::graphile_worker._private_jobs, to_jsonb(job) || jsonb_build_object(
        'flags', (select jsonb_object_agg(flag, true) from unnest(job.flags) as flag)
    ))
    from slayq.add_job(
        identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, job_key_mode
    ) as job
    where job.id is not null
$$
