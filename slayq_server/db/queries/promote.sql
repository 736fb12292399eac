-- Moves what has become due: to ready, or, in a serial queue, to blocked, from where slayq._advance_lanes_1 picks heads.
-- $1 how many at the most
-- A job that was waiting for an event or an invocation has timed out: its waits go, or, of a run, its steps have their
-- outcome. Locks job rows (never waiting), then waits and steps.
with due as materialized (
    select j.id from slayq.job j
    where j.state = 'scheduled' and j.run_at <= statement_timestamp()
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
steps as materialized (
    select expired.events, expired.invocations from runs, slayq._expire_steps_1(runs.ids) as expired
    where cardinality(runs.ids) > 0
)
select
    (select count(*) from promoted) as promoted,
    array(select distinct queue from promoted where state = 'ready') as ready,
    array(select distinct serial_queue from promoted where state = 'blocked') as lanes,
    (select count(*) from expired where kind = 'event') + coalesce((select events from steps), 0) as expired_events,
    (select count(*) from expired where kind = 'invocation') + coalesce((select invocations from steps), 0)
        as expired_invocations,
    (
        select extract(epoch from min(j.run_at) - clock_timestamp())::double precision
        from slayq.job j where j.state = 'scheduled' and j.run_at > statement_timestamp()
    ) as due_in
