-- Puts failed jobs back for a later attempt.
-- $1 worker id; one element per job: $2 id bigint[], $3 lease bigint[], $4 seconds to wait double precision[],
-- $5 error text[], $6 strict boolean[] (keeps its serial queue), $7 payload to go on with json[] or null each
-- A job that lost its key or was cancelled while it ran is never tried again: verdict dropped. The others as settle_completed.
with outcome as (
    select * from unnest($2::bigint[], $3::bigint[], $4::double precision[], $5::text[], $6::boolean[], $7::json[])
        as o (id, lease, delay, error, strict, payload)
),
held as materialized (
    select j.id, j.lease, j.superseded or j.cancelled as dropped
    from slayq.job j
    where j.id = any ($2) and j.worker_id = $1 and (select slayq._impatient_1())
    order by j.id
    for update skip locked
),
mine as (
    select held.id, held.dropped, outcome.delay, outcome.error, outcome.strict, outcome.payload
    from held join outcome on outcome.id = held.id and outcome.lease = held.lease
),
-- One row of arrays in the order of the ids, in which the update finds its values by binary search: joined to a set of
-- rows, the planner would go through the whole batch for each job of it.
given as materialized (
    select array_agg(id order by id) as ids, array_agg(delay order by id) as delays,
        array_agg(error order by id) as errors, array_agg(strict order by id) as stricts,
        array_agg(payload order by id) as payloads
    from mine where not mine.dropped
),
dropped as (
    delete from slayq.job j where j.id = any (array(select id from mine where mine.dropped))
    returning j.id, j.serial_queue
),
retried as (
    update slayq.job j
    set state = 'scheduled', worker_id = null, leased_at = null,
        holds = j.holds and given.stricts[width_bucket(j.id, given.ids)],
        run_at = clock_timestamp() + make_interval(secs => given.delays[width_bucket(j.id, given.ids)]),
        last_error = given.errors[width_bucket(j.id, given.ids)],
        payload = coalesce(given.payloads[width_bucket(j.id, given.ids)], j.payload), updated_at = now()
    from given
    where j.id = any (given.ids)
    returning j.id, case when j.holds then null else j.serial_queue end as serial_queue
)
select outcome.id,
    case
        when retried.id is not null then 'settled'
        when dropped.id is not null then 'dropped'
        when exists (
            select from slayq.job j where j.id = outcome.id and j.worker_id = $1 and j.lease = outcome.lease offset 0
        ) then 'locked'
        else 'stale'
    end as verdict,
    coalesce(retried.serial_queue, dropped.serial_queue) as serial_queue
from outcome
left join retried on retried.id = outcome.id
left join dropped on dropped.id = outcome.id
