-- Leases the next jobs of some queues, no more than each pool has room for, in (priority, run_at, id) order.
-- $1 worker id
-- $2 to $5 one element per queue name: the name text[], its pool's number integer[], the pool's free slots integer[], and
--   how many more it takes ahead integer[]: of these none whose last attempt it would be, because that must be made
-- $6 to $8 per queue name, where to begin: the place of a ready job, as priority integer[], run_at in microseconds since
--   1970 bigint[] (null: -infinity) and id bigint[]; nulls: at the first one. See engine/heads.py
-- $9 flags that this server must not run text[], or null
-- Locks job rows, never waiting. Invariants A, B, D, E of 0001_tables.sql; a worker whose time is up leases nothing.
-- Where a pool has several names, each name's first jobs are candidates and the best of them are taken.
with served as (
    select s.queue, s.pool, s.free, s.free + s.ahead as most, coalesce(s.priority, -2147483648) as priority,
        coalesce(timestamptz 'epoch' + s.due * interval '1 microsecond', '-infinity') as run_at, coalesce(s.id, 0) as id
    from unnest($2::text[], $3::integer[], $4::integer[], $5::integer[], $6::integer[], $7::bigint[], $8::bigint[])
        as s (queue, pool, free, ahead, priority, due, id)
    where exists (select from slayq.worker w where w.id = $1 and w.expires_at > clock_timestamp())
        and not exists (select from slayq.queue q where q.name = s.queue and q.paused)
),
candidate as materialized (
    select next.id, next.priority, next.run_at, next.is_last, served.pool, served.free, served.most
    from served
    cross join lateral (
        select j.id, j.priority, j.run_at, j.attempts + 1 >= j.max_attempts and j.run_id is null as is_last
        from slayq.job j
        where (select slayq._impatient_1()) and j.state = 'ready' and j.queue = served.queue
            and (j.priority, j.run_at, j.id) >= (served.priority, served.run_at, served.id)
            and ($9::text[] is null or j.flags is null or not j.flags && $9)
        order by j.priority, j.run_at, j.id
        limit served.most
        for update skip locked
    ) as next
),
chosen as (
    select id, is_last, free, most, row_number() over (partition by pool order by priority, run_at, id) as place
    from candidate
),
taken as (
    update slayq.job j
    set state = 'leased', worker_id = $1, lease = j.lease + 1, attempts = j.attempts + 1, leased_at = now()
    where j.id = any (array(select id from chosen where place <= free or (place <= most and not is_last)))
    returning j.id, j.lease, j.queue, j.job_key, j.attempts, j.max_attempts, j.payload, j.patches, j.serial_queue,
        j.priority, j.run_at,
        case when isfinite(j.run_at) then extract(epoch from now() - j.run_at)::double precision else 0 end as waited,
        case when j.run_id is not null then slayq._run_1(j) end as run
)
select id, lease, queue, job_key, attempts, max_attempts, payload, patches, serial_queue, waited, run,
    case when lead(id) over line is null then priority end as last_priority,
    case when lead(id) over line is null and isfinite(run_at) then (extract(epoch from run_at) * 1000000)::bigint end
        as last_due
from taken
window line as (partition by queue order by priority, run_at, id)
order by taken.priority, taken.run_at, id
