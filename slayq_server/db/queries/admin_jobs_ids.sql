-- The ids of all jobs that fit a filter, oldest first: what a bulk action is to act on, in one snapshot.
-- $1 to $7 as admin_jobs_list
select coalesce(array_agg(j.id order by j.id), '{}') as ids
from slayq.job j
where ($1::text[] is null or j.queue = any ($1))
    and ($2::text[] is null or j.state = any ($2))
    and ($3::text is null or j.event = $3)
    and ($4::text is null or j.job_key = $4)
    and ($5::text is null or slayq._scalar_text_1(slayq._readable_1(j.payload) -> 'data' -> $5) = $6::text)
    and ($5::text is null or j.id = any (array(
        select m.id from slayq.job m
        where m.state <> 'leased' and m.match_terms @> array[slayq._match_term_1($3, $5, $6)]
        union all
        select m.id from slayq.job m
        where m.state = 'leased' and m.match_terms @> array[slayq._match_term_1($3, $5, $6)]
    )))
    and ($7::boolean is null or (j.attempts > 0) = $7)
