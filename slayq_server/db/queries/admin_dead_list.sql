-- Dead letters that fit a filter, newest first, without their payloads.
-- $1 queues text[], $2 reasons text[], $3 event, $4 job key, $5 died before timestamptz, each null for any;
-- $6 only ids below this bigint, or null; $7 how many at the most
select d.id, d.queue, d.reason, d.event, d.job_key, d.serial_queue, d.priority, d.attempts, d.max_attempts, d.last_error,
    coalesce(d.flags, '{}') as flags, d.run_at, d.created_at, d.died_at
from slayq.dead_letter d
where ($1::text[] is null or d.queue = any ($1))
    and ($2::text[] is null or d.reason = any ($2))
    and ($3::text is null or d.event = $3)
    and ($4::text is null or d.job_key = $4)
    and ($5::timestamptz is null or d.died_at < $5)
    and ($6::bigint is null or d.id < $6)
order by d.id desc
limit $7
