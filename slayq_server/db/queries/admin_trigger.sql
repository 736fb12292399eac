-- Adds the job of a schedule's tick now, whatever its next tick, which stays; its id, or null where the v1 minute tick is
-- being delivered (at most one exists).
-- $1 schedule id
select (slayq._add_job_1(
    s.queue, json_build_object('url', s.url, 'retry', 0, 'event', s.event, 'data', s.data), null, now(), s.max_attempts,
    case s.kind when 'tick' then 'cron' else s.job_key end, s.priority, null, 'replace'
)).id
from slayq.schedule s
where s.id = $1
    and not (s.kind = 'tick' and exists (select from slayq.job j where j.job_key = 'cron' and j.state = 'leased'))
