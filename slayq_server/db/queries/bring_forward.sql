-- Makes jobs ready that were put off because their endpoint was away, the most important first.
-- $1 endpoint; $2 how many at the most; $3 of which queues text[], or null for all
-- How many there were, and their queues. Locks job rows, never waiting: a row that somebody else has stays put off until
-- its time comes. Of a serial queue only a head is ever put off, and it stays its head.
with next as materialized (
    select j.id from slayq.job j
    where (select slayq._impatient_1()) and j.state = 'scheduled' and j.put_off is not null and j.run_at = j.put_off_until
        and j.put_off = $1 and ($3::text[] is null or j.queue = any ($3))
    order by j.priority, j.id
    limit $2
    for update skip locked
),
forward as (
    update slayq.job j
    set state = 'ready', parked = false, run_at = now(), put_off_until = now(), updated_at = now()
    where j.id = any (array(select id from next))
    returning j.queue
)
select count(*) as number, coalesce(array_agg(distinct queue), '{}') as queues from forward
