-- Takes free slots of a queue for this worker until it holds so many; how many it then holds.
-- $1 worker id, $2 queue, $3 how many it wants to hold, $4 the queue's limit
-- Counting what the row says, not what the daemon remembers, heals an earlier call whose answer was lost. Slots of an
-- earlier, higher limit count for nothing and are given back.
with beyond as (
    update slayq.slot set worker_id = null where queue = $2 and worker_id = $1 and number > $4
),
mine as (
    select count(*) as held from slayq.slot where queue = $2 and worker_id = $1 and number <= $4
),
free as materialized (
    select s.number from slayq.slot s
    where s.queue = $2 and s.worker_id is null and s.number <= $4
    order by s.number limit greatest(0, $3::bigint - (select held from mine))
    for update skip locked
),
taken as (
    update slayq.slot s set worker_id = $1
    where s.queue = $2 and s.number = any (array(select number from free))
        and exists (select from slayq.worker w where w.id = $1 and w.expires_at > clock_timestamp())
    returning s.number
)
select ((select held from mine) + (select count(*) from taken))::integer
