-- The waits for events of the jobs that are taken over now and not due. The original names a job by its key, or by
-- Graphile Worker's id.
insert into slayq.wait (job_id, kind, term, event, match_key, match_value, step_name)
select moving.id, 'event', slayq._term_1(old.event, old.match_key, old.match_value), old.event, old.match_key,
    old.match_value, old.step
from (
    select
        coalesce((c ->> 'jobid')::bigint, owner.graphile_id) as graphile_id, c ->> 'event' as event,
        c ->> 'matchkey' as match_key, coalesce(c ->> 'matchvalue', c ->> 'matchval') as match_value,
        coalesce(c ->> 'stepname', c ->> 'step') as step
    from slayq._private_waiting_on as w
    cross join lateral (
        select jsonb_object_agg(lower(replace(key, '_', '')), value) from jsonb_each(to_jsonb(w))
    ) as columns (c)
    left join pg_temp.slayq_moving as owner on owner.job_key = c ->> 'jobkey'
) as old
join pg_temp.slayq_moving as moving on moving.graphile_id = old.graphile_id
where moving.reason is null and moving.run_at > now()
    and old.event is not null and old.match_key is not null and old.match_value is not null and old.step is not null
on conflict (job_id, md5(step_name)) do nothing
