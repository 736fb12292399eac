-- The database's gauges, by queue and state; which queues live workers serve; which are paused.
select 'job' as kind, j.queue as name, 'ready' as state, count(*) as jobs,
    extract(epoch from now() - min(j.run_at))::double precision as oldest
from slayq.job j where j.state = 'ready' group by j.queue
union all
select 'job', j.queue, 'scheduled', count(*), null from slayq.job j where j.state = 'scheduled' group by j.queue
union all
select 'job', j.queue, 'blocked', count(*), null from slayq.job j where j.state = 'blocked' group by j.queue
union all
select 'job', j.queue, 'leased', count(*), null from slayq.job j where j.state = 'leased' group by j.queue
union all
select 'dead', d.queue, 'dead', count(*), null from slayq.dead_letter d group by d.queue
union all
select 'wait', waiting.kind, '', sum(waiting.number)::bigint, null
from (
    select w.kind, count(*) as number from slayq.wait w group by w.kind
    union all
    select case s.kind when 'wait' then 'event' else 'invocation' end, count(*)
    from slayq.step s where s.state = 'pending' and s.term is not null group by s.kind
) as waiting
group by waiting.kind
union all
select 'served', q.name, '', 1, null
from (select distinct unnest(w.queues) as name from slayq.worker w where w.expires_at > now()) as q
union all
select 'paused', q.name, '', 1, null from slayq.queue q where q.paused
