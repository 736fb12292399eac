-- Takes free slots of a queue for this worker; how many it got.
-- $1 worker id, $2 queue, $3 how many it wants, $4 the queue's limit (slots of a higher, earlier limit are left alone)
with free as materialized (
    select s.number from slayq.slot s
    where s.queue = $2 and s.worker_id is null and s.number <= $4
    order by s.number limit $3
    for update skip locked
),
taken as (
    update slayq.slot s set worker_id = $1
    where s.queue = $2 and s.number = any (array(select number from free))
        and exists (select from slayq.worker w where w.id = $1 and w.expires_at > clock_timestamp())
    returning s.number
)
select count(*)::integer from taken
