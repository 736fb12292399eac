-- Adds the v1 minute tick, unless one is being delivered: at most one exists, and one that waits is replaced.
-- $1 queue, $2 payload json, $3 run_at
select (slayq._add_job_1($1, $2, null, $3, null, 'cron', null, null, 'replace')).id
where not exists (select from slayq.job where job_key = 'cron' and state = 'leased')
