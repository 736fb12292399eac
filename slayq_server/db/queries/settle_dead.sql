-- Moves jobs to the dead letters.
-- $1 worker id; one element per job: $2 id bigint[], $3 lease bigint[], $4 reason text[], $5 error text[],
-- $6 payload to keep json[] or null each. Verdicts as settle_retried.
with outcome as (
    select * from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::json[])
        as o (id, lease, reason, error, payload)
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
    returning j.*
),
-- Of the v1 minute tick only the last dead letter is kept.
replaced as (
    delete from slayq.dead_letter d
    where d.job_key = 'cron' and d.event = 'cron'
        and exists (select from ended where ended.job_key = 'cron' and ended.event = 'cron')
),
buried as (
    insert into slayq.dead_letter (id, queue, reason, priority, attempts, max_attempts, job_key, serial_queue, event,
        match_terms, flags, payload, patches, last_error, run_at, created_at, run_id, born, traceparent, lease)
    select ended.id, ended.queue, outcome.reason, ended.priority, ended.attempts, ended.max_attempts, ended.job_key,
        ended.serial_queue, ended.event, ended.match_terms, ended.flags, coalesce(outcome.payload, ended.payload),
        ended.patches, outcome.error, ended.run_at, ended.created_at, ended.run_id, ended.born, ended.traceparent,
        ended.lease
    from ended join outcome on outcome.id = ended.id
    where not (ended.superseded or ended.cancelled)
)
select outcome.id,
    case
        when ended.superseded or ended.cancelled then 'dropped'
        when ended.id is not null then 'settled'
        when exists (
            select from slayq.job j where j.id = outcome.id and j.worker_id = $1 and j.lease = outcome.lease offset 0
        ) then 'locked'
        else 'stale'
    end as verdict,
    ended.serial_queue
from outcome left join ended on ended.id = outcome.id
