-- The waits for the end of an invoked job, as waits.sql.
insert into slayq.wait (job_id, kind, term, target_key, step_name)
select moving.id, 'invocation', slayq._term_1('', 'invocation', old.target_key), old.target_key, old.step
from (
    select
        coalesce(coalesce(c ->> 'invokerjobid', c ->> 'invokerid')::bigint, owner.graphile_id) as graphile_id,
        coalesce(c ->> 'targetjobkey', c ->> 'targetkey') as target_key,
        coalesce(c ->> 'stepname', c ->> 'step') as step
    from slayq._private_invoker as i
    cross join lateral (
        select jsonb_object_agg(lower(replace(key, '_', '')), value) from jsonb_each(to_jsonb(i))
    ) as columns (c)
    left join pg_temp.slayq_moving as owner on owner.job_key = coalesce(c ->> 'invokerjobkey', c ->> 'invokerkey')
) as old
join pg_temp.slayq_moving as moving on moving.graphile_id = old.graphile_id
where moving.reason is null and moving.run_at > now() and old.target_key is not null and old.step is not null
on conflict (job_id, md5(step_name)) do nothing
