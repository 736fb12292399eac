-- Ends jobs that were delivered: their rows go, and history is kept where asked for.
-- $1 worker id; $2, $3 one element per job: id bigint[], lease bigint[]; $4 keep history boolean
-- Invariant B: only rows still held under that very lease. One row back per job:
--   settled; locked (somebody else's transaction has the row: try again); stale (the lease is no longer ours).
-- `offset 0` keeps the planner from answering `exists` with a hash of the whole table.
with outcome as (
    select o.id, o.lease from unnest($2::bigint[], $3::bigint[]) as o (id, lease)
),
held as materialized (
    select j.id, j.lease
    from slayq.job j
    where j.id = any ($2) and j.worker_id = $1 and (select slayq._impatient_1())
    order by j.id
    for update skip locked
),
ended as (
    delete from slayq.job j
    where j.id = any (array(select held.id from held join outcome on outcome.id = held.id and outcome.lease = held.lease))
    returning j.id, j.queue, j.job_key, j.event, j.attempts, j.payload, j.created_at, j.serial_queue
),
kept as (
    insert into slayq.done_job (id, queue, job_key, event, attempts, payload, created_at)
    select id, queue, job_key, event, attempts, payload, created_at from ended where $4
    on conflict (id) do nothing
)
select outcome.id,
    case
        when ended.id is not null then 'settled'
        when exists (
            select from slayq.job j where j.id = outcome.id and j.worker_id = $1 and j.lease = outcome.lease offset 0
        ) then 'locked'
        else 'stale'
    end as verdict,
    ended.serial_queue
from outcome left join ended on ended.id = outcome.id
