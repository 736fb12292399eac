-- Forgets events that no run waits for any more, a batch at a time: those that are a day old, and older than every run of
-- the functions that may wait for them.
-- $1 age in seconds, $2 how many go at once
with old as (
    select e.id from slayq.event e
    where e.matched and e.created_at < statement_timestamp() - make_interval(secs => $1)
        and not exists (
            select from slayq.interest i
            join slayq.job j on j.event = i.function_event and j.run_id is not null and j.created_at <= e.created_at
            where i.event = e.event and i.kind = 'wait'
        )
    order by e.created_at limit $2 for update skip locked
),
gone as (delete from slayq.event where id = any (array(select id from old)) returning id)
select count(*)::integer from gone
