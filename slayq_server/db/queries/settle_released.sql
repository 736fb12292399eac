-- Gives leased jobs back, the attempt not counted: at shutdown, for those whose delivery was cut off or never began.
-- $1 worker id; $2, $3 one element per job: id bigint[], lease bigint[]. Verdicts as settle_retried.
with outcome as (
    select o.id, o.lease from unnest($2::bigint[], $3::bigint[]) as o (id, lease)
),
held as materialized (
    select j.id, j.lease, j.superseded or j.cancelled as dropped
    from slayq.job j
    where j.id = any ($2) and j.worker_id = $1 and (select slayq._impatient_1())
    order by j.id
    for update skip locked
),
mine as (
    select held.id, held.dropped from held join outcome on outcome.id = held.id and outcome.lease = held.lease
),
dropped as (
    delete from slayq.job j where j.id = any (array(select id from mine where mine.dropped))
    returning j.id, j.serial_queue
),
released as (
    -- A serial queue's head stays its head.
    update slayq.job j
    set state = 'ready', worker_id = null, leased_at = null, attempts = greatest(j.attempts - 1, 0), updated_at = now()
    where j.id = any (array(select id from mine where not mine.dropped))
    returning j.id
)
select outcome.id,
    case
        when released.id is not null then 'settled'
        when dropped.id is not null then 'dropped'
        when exists (
            select from slayq.job j where j.id = outcome.id and j.worker_id = $1 and j.lease = outcome.lease offset 0
        ) then 'locked'
        else 'stale'
    end as verdict,
    dropped.serial_queue
from outcome
left join released on released.id = outcome.id
left join dropped on dropped.id = outcome.id
