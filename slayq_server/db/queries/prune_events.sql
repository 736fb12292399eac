-- Forgets events that no run waits for any more, a batch at a time: those that are a day old, and older than every run of
-- the functions that may wait for them, dead letters included, which may be put back.
-- $1 age in seconds, $2 how many go at once
-- Name by name, found by hopping from one to the next in the index: what is kept for the sake of an old run costs nothing.
with recursive name as (
    (select event from slayq.event where matched order by event limit 1)
    union all
    select (select e.event from slayq.event e where e.matched and e.event > name.event order by e.event limit 1)
    from name where name.event is not null
),
horizon as materialized (
    select name.event, least(
        statement_timestamp() - make_interval(secs => $1),
        (
            select min(oldest.created_at)
            from slayq.interest i
            cross join lateral (
                (select created_at from slayq.job where event = i.function_event and run_id is not null
                order by created_at limit 1)
                union all
                (select created_at from slayq.dead_letter where event = i.function_event and run_id is not null
                order by created_at limit 1)
            ) as oldest
            where i.event = name.event and i.kind = 'wait'
        )
    ) as oldest
    from name where name.event is not null
),
old as (
    select e.id
    from horizon
    cross join lateral (
        select id from slayq.event where event = horizon.event and matched and created_at < horizon.oldest
        order by created_at limit $2 for update skip locked
    ) as e
    limit $2
),
gone as (delete from slayq.event where id = any (array(select id from old)) returning id)
select count(*)::integer from gone
