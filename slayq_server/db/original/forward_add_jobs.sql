-- Graphile Worker's add_jobs, writing here: as forward_add_job.sql.
create or replace function graphile_worker.add_jobs(
    specs graphile_worker.job_spec[], job_key_preserve_run_at boolean default false
) returns setof graphile_worker._private_jobs language sql volatile as $$
    select jsonb_populate_record(null::graphile_worker._private_jobs, to_jsonb(job) || jsonb_build_object(
        'flags', (select jsonb_object_agg(flag, true) from unnest(job.flags) as flag)
    ))
    from slayq.add_jobs(
        array(
            select row(
                spec.identifier, spec.payload, spec.queue_name, spec.run_at, spec.max_attempts, spec.job_key,
                spec.priority, spec.flags
            )::slayq.job_spec
            from unnest(specs) with ordinality as spec
            order by spec.ordinality
        ),
        job_key_preserve_run_at
    ) as job
$$
