-- Every queue that anything is known of: its jobs by state, its dead letters, who serves it, whether it is paused.
-- No parameters. The counts come from the indexes alone, one look for each state.
with jobs as (
    select j.queue, 'ready' as state, count(*) as jobs, min(j.run_at) as first
    from slayq.job j where j.state = 'ready' group by j.queue
    union all
    select j.queue, 'scheduled', count(*), null from slayq.job j where j.state = 'scheduled' group by j.queue
    union all
    select j.queue, 'blocked', count(*), null from slayq.job j where j.state = 'blocked' group by j.queue
    union all
    select j.queue, 'leased', count(*), null from slayq.job j where j.state = 'leased' group by j.queue
),
dead as (
    select d.queue, count(*) as jobs from slayq.dead_letter d group by d.queue
),
serving as (
    select served.name as queue, array_agg(w.name || '#' || w.id order by w.id) as workers
    from slayq.worker w cross join lateral unnest(w.queues) as served (name)
    where w.expires_at > now()
    group by served.name
),
known as (
    select queue from jobs union select queue from dead union select queue from serving union select name from slayq.queue
)
select known.queue as name,
    coalesce((select q.paused from slayq.queue q where q.name = known.queue), false) as paused,
    coalesce((select jobs from jobs where jobs.queue = known.queue and state = 'ready'), 0) as ready,
    coalesce((select jobs from jobs where jobs.queue = known.queue and state = 'scheduled'), 0) as scheduled,
    coalesce((select jobs from jobs where jobs.queue = known.queue and state = 'blocked'), 0) as blocked,
    coalesce((select jobs from jobs where jobs.queue = known.queue and state = 'leased'), 0) as leased,
    coalesce((select jobs from dead where dead.queue = known.queue), 0) as dead,
    (
        select extract(epoch from now() - first)::double precision from jobs
        where jobs.queue = known.queue and state = 'ready'
    ) as oldest_ready_seconds,
    coalesce((select workers from serving where serving.queue = known.queue), '{}') as workers
from known
order by known.queue
