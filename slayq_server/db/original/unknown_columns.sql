-- The original's tables of waits that have rows, but not the columns that waits.sql and invocations.sql read (whatever
-- their underscores).
with sample as (
    (
        select 'slayq._private_waiting_on' as name, to_jsonb(w) as columns,
            array['jobkey|jobid', 'event', 'matchkey', 'matchvalue|matchval', 'stepname|step'] as needed
        from slayq._private_waiting_on as w limit 1
    )
    union all
    (
        select 'slayq._private_invoker', to_jsonb(i),
            array['invokerjobkey|invokerkey|invokerjobid|invokerid', 'targetjobkey|targetkey', 'stepname|step']
        from slayq._private_invoker as i limit 1
    )
)
select sample.name, (select string_agg(key, ', ') from jsonb_object_keys(columns) as key) as columns
from sample
where exists (
    select from unnest(needed) as pattern
    where not exists (
        select from jsonb_object_keys(columns) as key
        where lower(replace(key, '_', '')) ~ ('^(' || pattern || ')$')
    )
)
