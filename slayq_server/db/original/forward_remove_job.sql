-- Graphile Worker's remove_job, acting here: as forward_add_job.sql.
create or replace function graphile_worker.remove_job(job_key text) returns graphile_worker._private_jobs
language sql volatile strict as $$
    select jsonb_populate_record(null::graphile_worker._private_jobs, to_jsonb(job) || jsonb_build_object(
        'flags', (select jsonb_object_agg(flag, true) from unnest(job.flags) as flag)
    ))
    from slayq.remove_job(job_key) as job
    where job.id is not null
$$
