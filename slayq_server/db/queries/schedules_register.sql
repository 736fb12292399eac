-- Writes a schedule of this server's configuration. A new one, or one whose cron text changed, starts at $12: no back-fill.
-- $1 id, $2 cron, $3 queue, $4 event, $5 url, $6 data json, $7 priority, $8 max_attempts, $9 job_key, $10 catch_up,
-- $11 catch_up_window in seconds, $12 next tick, $13 kind
insert into slayq.schedule
    (id, cron, queue, event, url, data, priority, max_attempts, job_key, catch_up, catch_up_window, next_at, kind)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, make_interval(secs => $11), $12, $13)
on conflict (id) do update set
    cron = excluded.cron, queue = excluded.queue, event = excluded.event, url = excluded.url, data = excluded.data,
    priority = excluded.priority, max_attempts = excluded.max_attempts, job_key = excluded.job_key,
    catch_up = excluded.catch_up, catch_up_window = excluded.catch_up_window, kind = excluded.kind, seen_at = now(),
    next_at = case when schedule.cron = excluded.cron then schedule.next_at else excluded.next_at end
