-- Locks the schedules of this server that have a tick due, for the transaction that fires them: each tick once in a cluster.
-- $1 ids text[]
select id, cron, queue, event, url, data, priority, max_attempts, job_key, kind, catch_up,
    extract(epoch from catch_up_window)::double precision as catch_up_window, next_at, last_at, clock_timestamp() as now
from slayq.schedule
where id = any ($1) and planned and next_at <= statement_timestamp()
order by id
for update skip locked
