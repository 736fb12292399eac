-- Where jobs are, of those named that are anywhere: job, dead_letter or done_job.
-- $1 ids bigint[]
select j.id, 'job' as place, j.state from slayq.job j where j.id = any ($1)
union all
select d.id, 'dead_letter', d.reason from slayq.dead_letter d where d.id = any ($1)
union all
select h.id, 'done_job', 'done' from slayq.done_job h where h.id = any ($1)
