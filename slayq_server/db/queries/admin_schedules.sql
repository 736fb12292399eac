-- The schedules, by id. The next tick of one that no daemon has planned yet is null.
-- $1 one id, or null for all
select s.id, s.cron, s.queue, s.event, s.url, s.kind, s.priority, s.max_attempts, s.job_key, s.catch_up,
    case when s.planned then s.next_at end as next_at, s.last_at, s.seen_at
from slayq.schedule s
where $1::text is null or s.id = $1
order by s.id
