-- The endpoints that live daemons find away, a row for each daemon; and those for which jobs are put off though no daemon
-- says so (any more: their jobs are brought forward at the next heartbeat).
-- No parameters.
with waiting as (
    select j.put_off as endpoint, count(*) as jobs from slayq.job j
    where j.state = 'scheduled' and j.put_off is not null and j.run_at = j.put_off_until
    group by j.put_off
),
away as (
    select c.endpoint, w.name || '#' || w.id as worker, c.since, c.failures, c.result
    from slayq.worker w
    cross join lateral json_to_recordset(w.circuits)
        as c (endpoint text, since timestamptz, failures integer, result text)
    where w.expires_at > now()
)
select coalesce(away.endpoint, waiting.endpoint) as endpoint, away.worker, away.since, away.failures, away.result,
    coalesce(waiting.jobs, 0) as put_off
from away full join waiting on waiting.endpoint = away.endpoint
order by 1, away.worker
