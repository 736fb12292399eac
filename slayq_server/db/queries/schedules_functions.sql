-- The schedules of functions, whichever app has registered them.
select id, cron, queue, event, url, data, priority, max_attempts, job_key, kind, catch_up,
    extract(epoch from catch_up_window)::double precision as catch_up_window, next_at, last_at, clock_timestamp() as now,
    planned
from slayq.schedule where kind = 'function'
order by id
