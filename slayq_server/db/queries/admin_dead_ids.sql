-- The ids of all dead letters that fit a filter, oldest first: what a bulk action is to act on, in one snapshot.
-- $1 to $5 as admin_dead_list
select coalesce(array_agg(d.id order by d.id), '{}') as ids
from slayq.dead_letter d
where ($1::text[] is null or d.queue = any ($1))
    and ($2::text[] is null or d.reason = any ($2))
    and ($3::text is null or d.event = $3)
    and ($4::text is null or d.job_key = $4)
    and ($5::timestamptz is null or d.died_at < $5)
