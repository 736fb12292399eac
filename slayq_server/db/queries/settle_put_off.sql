-- Puts jobs off that were leased and not delivered, because their endpoint is away: the attempt not counted.
-- $1 worker id; one element per job: $2 id bigint[], $3 lease bigint[], $4 seconds to wait double precision[],
-- $5 endpoint text[]. Verdicts as settle_retried.
with outcome as (
    select * from unnest($2::bigint[], $3::bigint[], $4::double precision[], $5::text[]) as o (id, lease, delay, endpoint)
),
held as materialized (
    select j.id, j.lease, j.superseded or j.cancelled as dropped
    from slayq.job j
    where j.id = any ($2) and j.worker_id = $1 and (select slayq._impatient_1())
    order by j.id
    for update skip locked
),
mine as (
    select held.id, held.dropped, outcome.delay, outcome.endpoint
    from held join outcome on outcome.id = held.id and outcome.lease = held.lease
),
-- As in settle_retried: the update finds its values by binary search.
given as materialized (
    select array_agg(id order by id) as ids,
        array_agg(clock_timestamp() + make_interval(secs => delay) order by id) as untils,
        array_agg(endpoint order by id) as endpoints
    from mine where not mine.dropped
),
dropped as (
    delete from slayq.job j where j.id = any (array(select id from mine where mine.dropped))
    returning j.id, j.serial_queue
),
delayed as (
    -- A serial queue's head stays its head.
    update slayq.job j
    set state = 'scheduled', worker_id = null, leased_at = null, attempts = greatest(j.attempts - 1, 0),
        run_at = given.untils[width_bucket(j.id, given.ids)],
        put_off_until = given.untils[width_bucket(j.id, given.ids)],
        put_off = given.endpoints[width_bucket(j.id, given.ids)], updated_at = now()
    from given
    where j.id = any (given.ids)
    returning j.id
)
select outcome.id,
    case
        when delayed.id is not null then 'settled'
        when dropped.id is not null then 'dropped'
        when exists (
            select from slayq.job j where j.id = outcome.id and j.worker_id = $1 and j.lease = outcome.lease offset 0
        ) then 'locked'
        else 'stale'
    end as verdict,
    dropped.serial_queue
from outcome
left join delayed on delayed.id = outcome.id
left join dropped on dropped.id = outcome.id
