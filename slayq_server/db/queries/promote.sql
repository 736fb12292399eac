-- Moves what has become due to ready or, in a serial queue, to blocked; then gives those serial queues their heads.
-- $1 how many at the most
-- A job that was waiting for an event or an invocation has timed out: its waits go, or, of a run, its steps have their
-- outcome.
-- Locks job rows (never waiting), then waits and steps, then lanes. Of each lane one daemon at a time promotes: while it
-- is at it, a job that comes later must not become head past one that is on its way from scheduled to blocked. So it
-- begins with a lock of the lane for promoting (a thousand serve all); lanes that another daemon has are passed by, and
-- due_in is then short.
with candidate as materialized (
    select distinct next.serial_queue as name
    from (
        select j.serial_queue from slayq.job j
        where j.state = 'scheduled' and j.run_at <= statement_timestamp()
        order by j.run_at, j.id
        limit $1
    ) as next
    where next.serial_queue is not null
),
tried as materialized (
    select name, pg_try_advisory_xact_lock(1936484722, hashtext(name) & 1023) as free from candidate
),
lane as materialized (
    select array_agg(name) filter (where free) as names, bool_or(not free) as passed_by from tried
),
due as materialized (
    select j.id from slayq.job j
    where (select slayq._impatient_1()) and j.state = 'scheduled' and j.run_at <= statement_timestamp()
        and (j.serial_queue is null or j.serial_queue = any ((select names from lane)::text[]))
    order by j.run_at, j.id
    limit $1
    for update skip locked
),
promoted as (
    update slayq.job j
    set state = case when j.serial_queue is null or j.holds then 'ready' else 'blocked' end, parked = false
    where j.id = any (array(select id from due))
    returning j.id, j.queue, j.state, j.serial_queue, j.run_id
),
expired as (
    delete from slayq.wait w where w.job_id = any (array(select id from due)) returning w.kind
),
runs as materialized (
    select array(select id from promoted where run_id is not null) as ids
),
-- Its statements see what the above has changed, and what others have committed meanwhile.
headed as materialized (
    select array(select distinct name from slayq._advance_lanes_1(blocked.lanes) as name) as queues
    from (select array(select distinct serial_queue from promoted where state = 'blocked') as lanes) as blocked
    where cardinality(blocked.lanes) > 0
),
steps as materialized (
    select expired.events, expired.invocations from runs, slayq._expire_steps_1(runs.ids) as expired
    where cardinality(runs.ids) > 0
)
select
    (select count(*) from promoted) as promoted,
    array(
        select queue from promoted where state = 'ready' union select unnest(queues) from headed
    ) as ready,
    (select count(*) from expired where kind = 'event') + coalesce((select events from steps), 0) as expired_events,
    (select count(*) from expired where kind = 'invocation') + coalesce((select invocations from steps), 0)
        as expired_invocations,
    least(
        case when (select passed_by from lane) then 0.05 end,
        (
            select extract(epoch from min(j.run_at) - clock_timestamp())::double precision
            from slayq.job j where j.state = 'scheduled' and j.run_at > statement_timestamp()
        )
    ) as due_in
