-- Serial queues: of the jobs that share a serial_queue at most one is delivered at a time, in (priority, run_at, id) order.
--
-- One job of each lane is its head (job.holds): ready, leased, or waiting for its retry where the queue is strict. The
-- others that are due are 'blocked'. Only the functions here choose heads, under an advisory lock for the lane, and only
-- daemons call them, in short transactions; adding a job takes no such lock.
--
-- Lock order of their callers: job rows (skip locked, so without waiting), then lanes in the order of their lock numbers,
-- then the new heads' rows (skip locked). No one waits for a row while holding a lane.

-- Takes the locks of some lanes. A thousand locks serve all lanes, so that a batch cannot fill the lock table.
-- Patient, whatever its transaction is otherwise (slayq._impatient_1): no circle leads through here.
create function slayq._lock_lanes_1(lanes text[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '5s' as $$
    select pg_advisory_xact_lock(1936484721, bucket)
    from (select distinct hashtext(lane) & 1023 as bucket from unnest(lanes) as lane order by bucket) as wanted
$$;

-- Gives each lane named the head it should have and returns the queues that have something new to lease.
-- A head that is merely ready makes room for a job that comes before it, unless it was delivered before, or put off: what
-- has failed or lost its lease comes first, whatever has come in since (strict queues promise that).
create function slayq._advance_lanes_1(lanes text[]) returns setof text
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
begin
    perform slayq._lock_lanes_1(lanes);
    -- Each statement from here on sees what others committed before they let go of the lanes.
    update slayq.job set state = 'blocked', holds = false
    where job.id = any (array(
        select head.id
        from (select distinct unnest(lanes) as name) as lane
        cross join lateral (
            select j.id, j.priority, j.run_at from slayq.job j
            where j.serial_queue = lane.name and j.holds and j.state = 'ready' and j.attempts = 0
                and j.put_off_until is distinct from j.run_at
            for update skip locked
        ) as head
        cross join lateral (
            select j.id, j.priority, j.run_at from slayq.job j
            where j.serial_queue = lane.name and j.state = 'blocked'
            order by j.priority, j.run_at, j.id limit 1
        ) as next
        where (next.priority, next.run_at, next.id) < (head.priority, head.run_at, head.id)
    ));
    return query
        update slayq.job set state = 'ready', holds = true
        where job.id = any (array(
            select next.id
            from (select distinct unnest(lanes) as name) as lane
            cross join lateral (
                select j.id from slayq.job j
                where j.serial_queue = lane.name and j.state = 'blocked'
                order by j.priority, j.run_at, j.id limit 1
                for update skip locked
            ) as next
            where not exists (select from slayq.job j where j.serial_queue = lane.name and j.holds)
        ))
        returning job.queue;
end
$$;

-- The net under it: lanes that have something blocked and no head, found by hopping from lane to lane in the index.
create function slayq._headless_lanes_1(most integer) returns setof text
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
    with recursive lane as (
        (select serial_queue as name from slayq.job where state = 'blocked' order by serial_queue limit 1)
        union all
        select (
            select serial_queue from slayq.job
            where state = 'blocked' and serial_queue > lane.name order by serial_queue limit 1
        )
        from lane where lane.name is not null
    )
    select lane.name from lane
    where lane.name is not null
        and not exists (select from slayq.job where job.serial_queue = lane.name and job.holds)
    limit most
$$;
