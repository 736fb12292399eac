-- Runs that fit a filter, newest first, without their data.
-- $1 queues text[], $2 states text[], $3 event, each null for any; $4 only ids below this bigint, or null; $5 how many
select j.id, j.run_id, j.event, j.queue, j.state, j.parked, j.attempts, j.max_attempts, j.delivery_failures,
    (select count(*) from slayq.step s where s.job_id = j.id and s.state <> 'pending') as steps,
    array(
        select concat_ws(' ', s.kind, s.event, s.match_key, s.match_value) from slayq.step s
        where s.job_id = j.id and s.state = 'pending' order by s.due_at, s.name limit 10
    ) as waits_for,
    j.run_at, j.created_at, j.last_error
from slayq.job j
where j.run_id is not null
    and ($1::text[] is null or j.queue = any ($1))
    and ($2::text[] is null or j.state = any ($2))
    and ($3::text is null or j.event = $3)
    and ($4::bigint is null or j.id < $4)
order by j.id desc
limit $5
