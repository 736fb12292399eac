-- Jobs that fit a filter, newest first, without their payloads.
-- $1 queues text[], $2 states text[], $3 event, $4 job key, $5 match key, $6 match value (a member of the payload's data
-- and its text; both or none, and only with $3), $7 failed at least once boolean, each null for any;
-- $8 only ids below this bigint, or null; $9 how many at the most
select j.id, j.queue, j.state, j.event, j.job_key, j.serial_queue, j.priority, j.run_at, j.attempts, j.max_attempts,
    j.last_error, coalesce(j.flags, '{}') as flags, j.created_at, j.updated_at, j.worker_id, j.leased_at
from slayq.job j
where ($1::text[] is null or j.queue = any ($1))
    and ($2::text[] is null or j.state = any ($2))
    and ($3::text is null or j.event = $3)
    and ($4::text is null or j.job_key = $4)
    and ($5::text is null or slayq._scalar_text_1(slayq._readable_1(j.payload) -> 'data' -> $5) = $6::text)
    -- Two looks, because the index of match terms leaves out what is leased.
    and ($5::text is null or j.id = any (array(
        select m.id from slayq.job m
        where m.state <> 'leased' and m.match_terms @> array[slayq._match_term_1($3, $5, $6)]
        union all
        select m.id from slayq.job m
        where m.state = 'leased' and m.match_terms @> array[slayq._match_term_1($3, $5, $6)]
    )))
    and ($7::boolean is null or (j.attempts > 0) = $7)
    and ($8::bigint is null or j.id < $8)
order by j.id desc
limit $9
