-- What a daemon does with runs (protocol v2): what a segment starts from, writing its journal down, ending waits.
-- compatible with: 7

-- What a segment starts from, as JSON: all that the job's row does not say itself. Outputs go in as they are stored.
-- Volatile, to see what was committed up to when the lease got the row: a whole segment of the run may have gone by, with
-- another daemon, since the lease's snapshot.
--
-- What has grown larger than any app reads (REQUEST_BYTES in slayq/protocol_v2.py) is left out, and only its size told:
-- no run may keep a lease from coming to its end, or a daemon from having the memory for it.
create function slayq._run_1(job slayq.job) returns json
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    url text;
    seen bigint;
    bytes bigint;
    steps text;
begin
    select to_json(f.url) into url from slayq.function f where f.event = job.event;
    select max(s.number), sum(coalesce(octet_length(s.output::text), 0) + coalesce(octet_length(s.error::text), 0))
    into seen, bytes from slayq.step s where s.job_id = job.id;
    select string_agg(concat(
        '{"name":', to_json(s.name), ',"kind":"', s.kind, '","state":"', s.state, '"',
        case when s.state = 'done' then ',"output":' || coalesce(s.output::text, 'null') end,
        case when s.error is not null then ',"error":' || s.error::text end,
        case when s.attempts > 0 then ',"attempts":' || s.attempts end,
        case when s.kind = 'run' and s.state = 'pending' then ',"retry_in_ms":'
            || greatest(0, ceil(extract(epoch from coalesce(s.due_at, now()) - clock_timestamp()) * 1000)) end,
        '}'
    ), ',' order by s.number nulls last, s.created_at, s.name) into steps
    from slayq.step s where s.job_id = job.id and bytes <= 64 * 1048576;
    return format(
        '{"id":"%s","url":%s,"created_at":"%s","delivery_failures":%s,"traceparent":%s,"seen":%s,"bytes":%s,"steps":[%s]}',
        job.run_id, coalesce(url, 'null'),
        to_char(job.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), job.delivery_failures,
        coalesce(to_json(job.traceparent)::text, 'null'), coalesce(seen, 0), coalesce(bytes, 0), coalesce(steps, '')
    );
end
$$;

-- Keeps waits from being added while events are matched, and the other way round (invariant H).
create function slayq._lock_matching_1(exclusively boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if exclusively then
        perform pg_advisory_xact_lock(1936484724, 2);
    else
        perform pg_advisory_xact_lock_shared(1936484724, 2);
    end if;
end
$$;

-- The first event that a run's wait may take: one that came after the run began, or was not committed when it began, and
-- that no other wait of the run has taken.
create function slayq._look_back_1(run slayq.job, wanted bigint, event_name text, match_name text, match_text text)
returns slayq.event language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
    select e.* from slayq.event e
    where e.kind = 'event' and e.term = wanted
        and e.event = event_name and e.match_key = match_name and e.match_value = match_text
        and (e.created_at >= run.created_at or not pg_visible_in_snapshot(e.xid, run.born))
        and not exists (select from slayq.step s where s.job_id = run.id and s.event_id = e.id)
    order by e.id limit 1
$$;

-- The endpoints for which jobs are put off, found by hopping from one to the next in the index.
create function slayq._put_off_endpoints_1() returns setof text
language sql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
    with recursive hop as (
        (
            select j.put_off as endpoint from slayq.job j
            where j.state = 'scheduled' and j.put_off is not null and j.run_at = j.put_off_until
            order by j.put_off limit 1
        )
        union all
        select (
            select j.put_off from slayq.job j
            where j.state = 'scheduled' and j.put_off is not null and j.run_at = j.put_off_until
                and j.put_off > hop.endpoint
            order by j.put_off limit 1
        )
        from hop where hop.endpoint is not null
    )
    select endpoint from hop where endpoint is not null
$$;

-- When a wait, a sleep or a back-off of so many seconds ends. A null never does.
create function slayq._after_1(seconds double precision) returns timestamptz
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select case when seconds is null then 'infinity'
        else clock_timestamp() + make_interval(secs => least(seconds, 31557600000)) end
$$;

-- Carries out one op that may be refused (send, wait, invoke); raises SQ0xx. Called with the run's row locked.
create function slayq._carry_out_1(
    run slayq.job, kind text, step_name text, value json, event_name text, match_name text, match_text text,
    seconds double precision, step_number bigint
) returns void language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    target slayq.function;
    taken slayq.event;
    callee uuid;
    wanted bigint;
    output json;
begin
    if exists (
        select from slayq.step s
        where s.job_id = run.id and s.name = step_name and s.kind = _carry_out_1.kind and s.lease = run.lease
    ) then
        return; -- this very op is written already: the answer to its flush was lost
    end if;
    if kind = 'send' then
        select coalesce(json_agg(sent), '[]') into output from slayq._send_many_1(value) as sent;
        insert into slayq.step (job_id, name, kind, state, number, output, lease)
        values (run.id, step_name, 'send', 'done', step_number, output, run.lease);
    elsif kind = 'wait' then
        if not exists (
            select from slayq.interest i where i.event = event_name and i.kind = 'wait'
                and i.function_event = run.event and i.match_key = match_name
        ) then
            raise exception 'the step % waits for the event % by %, which the function of % does not declare',
                quote_literal(step_name), quote_literal(event_name), quote_literal(match_name), quote_literal(run.event)
                using errcode = 'SQ012', hint = 'Name the pair in the function''s waits_on, and register the app again.';
        end if;
        wanted := slayq._term_1(event_name, match_name, match_text);
        taken := slayq._look_back_1(run, wanted, event_name, match_name, match_text);
        insert into slayq.step (job_id, name, kind, state, number, output, event_id, due_at, term, event, match_key,
            match_value, lease)
        values (
            run.id, step_name, 'wait', case when taken.id is null then 'pending' else 'done' end,
            case when taken.id is not null then step_number end, taken.value, taken.id, slayq._after_1(seconds), wanted,
            event_name, match_name, match_text, run.lease
        );
    else
        perform slayq._check_data_1(event_name, value);
        select * into target from slayq.function f where f.event = event_name;
        if not found then
            raise exception 'the step % invokes the event %, for which no app has registered a function',
                quote_literal(step_name), quote_literal(event_name)
                using errcode = 'SQ010', hint = 'Start the app that has the function, which registers it.';
        end if;
        callee := slayq._create_run_1(target, value, now(), null, run.traceparent);
        insert into slayq.step (job_id, name, kind, state, due_at, term, event, match_key, match_value, lease)
        values (run.id, step_name, 'invoke', 'pending', slayq._after_1(seconds), slayq._term_1('', 'run', callee::text),
            '', 'run', callee::text, run.lease);
    end if;
end
$$;

-- Writes down what the apps have said in the segments of many runs, and how those ended that have: one transaction for
-- all. See queries/flush_runs.sql for the arguments and the verdicts.
--
-- Lock order: the match lock (only if there are waits), the runs' rows in id order (skip locked), then what sends lock.
-- Those wait for others, for a quarter of a second at most in all; then the run they belong to is left as it was, as one
-- whose own row is locked. Invariants B, E, G, H, I.
--
-- The ops are gone through as rows: in a statement, finding the n-th of an array of texts takes n steps.
create function slayq._flush_1(
    worker bigint, ids bigint[], leases bigint[], seen bigint[], ends text[], outputs json[], errors text[],
    delays double precision[], reasons text[], op_runs integer[], op_kinds text[], op_names text[], op_values json[],
    op_events text[], op_keys text[], op_match_values text[], op_seconds double precision[], op_untils timestamptz[],
    op_attempts integer[], op_final boolean[], keep_done boolean
) returns table (id bigint, verdict text, note text, due_in double precision, ready text)
language plpgsql volatile rows 100
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off set lock_timeout = '250ms' as $$
#variable_conflict use_column
declare
    batch constant bigint := nextval('slayq.step_batch') << 20;
    verdicts text[] := array_fill('stale'::text, array[cardinality(ids)]);
    notes text[] := array_fill(null::text, array[cardinality(ids)]);
    -- Of each run, the first op that is not written; null: all are.
    stops integer[] := array_fill(null::integer, array[cardinality(ids)]);
    -- Of each run, the first and the last op that is carried out by itself; null: there is none.
    firsts integer[];
    lasts integer[];
    held slayq.job;
    place integer;
    op integer;
    closing integer[];
begin
    if 'wait' = any (op_kinds) then
        begin
            perform slayq._lock_matching_1(false);
        exception when lock_not_available then
            return query select i, 'locked'::text, null::text, null::double precision, null::text from unnest(ids) as i;
            return;
        end;
    end if;
    select array_agg(o.first order by p), array_agg(o.last order by p) into firsts, lasts
    from generate_subscripts(ids, 1) as p
    left join (
        select o.run, min(o.place) as first, max(o.place) as last
        from unnest(op_runs, op_kinds) with ordinality as o (run, kind, place)
        where o.kind in ('send', 'wait', 'invoke') group by o.run
    ) as o on o.run = p;

    for held in
        select j.* from slayq.job j where j.id = any (ids) and j.worker_id = worker order by j.id for update skip locked
    loop
        place := array_position(ids, held.id);
        continue when held.lease <> leases[place];
        if held.cancelled then
            verdicts[place] := 'dropped';
            continue;
        end if;
        verdicts[place] := case when ends[place] is null then 'ok' else 'settled' end;
        continue when firsts[place] is null;
        begin
            for op in firsts[place]..lasts[place] loop
                continue when op_kinds[op] not in ('send', 'wait', 'invoke') or op_runs[op] <> place;
                begin
                    perform slayq._carry_out_1(held, op_kinds[op], op_names[op], op_values[op], op_events[op], op_keys[op],
                        op_match_values[op], op_seconds[op], batch + op);
                exception when others then
                    if sqlstate not like 'SQ0%' and sqlstate not in ('23505', '22P05', '22P02') then
                        raise;
                    end if;
                    verdicts[place] := 'refused';
                    notes[place] := case sqlstate when '23505' then
                        format('the name %s has been used before in this run', quote_literal(op_names[op]))
                        else sqlerrm end;
                    stops[place] := op;
                    exit;
                end;
            end loop;
        exception when lock_not_available or deadlock_detected then
            verdicts[place] := 'locked';
            notes[place] := null;
            stops[place] := 0;
            perform set_config('lock_timeout', '1ms', true); -- that was all the time there is for waiting
        end;
    end loop;
    for place in select p from generate_subscripts(ids, 1) as p where verdicts[p] = 'stale' loop
        if exists (
            select from slayq.job j where j.id = ids[place] and j.worker_id = worker and j.lease = leases[place] offset 0
        ) then
            verdicts[place] := 'locked';
        end if;
    end loop;

    if op_kinds && array['step', 'step_failed', 'sleep'] then
        -- Of several attempts at a step the last one counts.
        insert into slayq.step as old (job_id, name, kind, state, number, output, error, attempts, due_at)
        select distinct on (o.run, o.name) run.id, o.name, case o.kind when 'sleep' then 'sleep' else 'run' end,
            case when o.kind = 'step' then 'done' when o.final then 'failed' else 'pending' end,
            case when o.kind = 'step' or o.final then batch + o.place end,
            case when o.kind = 'step' then o.value end,
            case when o.kind = 'step_failed' then o.value end,
            coalesce(o.attempts, 0),
            case
                when o.kind = 'sleep' then coalesce(o.until, slayq._after_1(o.seconds))
                when o.kind = 'step_failed' and not o.final then slayq._after_1(coalesce(o.seconds, 0))
            end
        from unnest(op_runs, op_kinds, op_names, op_values, op_seconds, op_untils, op_attempts, op_final)
            with ordinality as o (run, kind, name, value, seconds, until, attempts, final, place)
        join unnest(ids, verdicts, stops) with ordinality as run (id, verdict, stop, place) on run.place = o.run
        where o.kind in ('step', 'step_failed', 'sleep')
            and run.verdict in ('ok', 'settled', 'refused') and coalesce(o.place < run.stop, true)
        order by o.run, o.name, o.place desc
        on conflict (job_id, name) do update set
            state = excluded.state, number = excluded.number, output = excluded.output, error = excluded.error,
            attempts = greatest(old.attempts, excluded.attempts), due_at = excluded.due_at
        where old.kind = 'run' and old.state = 'pending' and excluded.kind = 'run';
    end if;

    -- A send of its own may have cancelled a run: what is left of it goes.
    for held in
        select j.* from slayq.job j
        where j.id = any (ids) and j.worker_id = worker and j.cancelled
            and j.lease = leases[array_position(ids, j.id)]
            and verdicts[array_position(ids, j.id)] in ('ok', 'settled', 'refused', 'dropped')
    loop
        verdicts[array_position(ids, held.id)] := 'dropped';
    end loop;
    delete from slayq.job j where j.id = any (array(
        select ids[p] from generate_subscripts(ids, 1) as p where verdicts[p] = 'dropped' and ends[p] is not null
    ));

    closing := array(select p from generate_subscripts(ids, 1) as p where verdicts[p] = 'settled');
    if cardinality(closing) > 0 then
        return query select * from slayq._end_segments_1(
            array(select ids[p] from unnest(closing) as p), array(select seen[p] from unnest(closing) as p),
            array(select ends[p] from unnest(closing) as p), array(select outputs[p] from unnest(closing) as p),
            array(select errors[p] from unnest(closing) as p), array(select delays[p] from unnest(closing) as p),
            array(select reasons[p] from unnest(closing) as p), keep_done
        );
    end if;
    return query
        select ids[p], verdicts[p], notes[p], null::double precision, null::text
        from generate_subscripts(ids, 1) as p where verdicts[p] <> 'settled';
end
$$;

-- The next state of runs whose segments have ended; their rows are locked, and held.
create function slayq._end_segments_1(
    ids bigint[], seen bigint[], ends text[], outputs json[], errors text[], delays double precision[], reasons text[],
    keep_done boolean
) returns table (id bigint, verdict text, note text, due_in double precision, ready text)
language plpgsql volatile rows 100 set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    finished constant bigint[] := array(select ids[p] from generate_subscripts(ids, 1) as p where ends[p] = 'done');
    parking constant bigint[] := array(select ids[p] from generate_subscripts(ids, 1) as p where ends[p] = 'suspended');
    place integer;
    run slayq.job;
    due timestamptz;
begin
    if cardinality(finished) > 0 then
        -- First what the run's invokers wait for: the trigger at its end finds it there.
        insert into slayq.event (kind, term, event, match_key, match_value, value)
        select 'invocation', slayq._term_1('', 'run', j.run_id::text), '', 'run', j.run_id::text,
            coalesce(outputs[array_position(ids, j.id)], 'null')
        from slayq.job j
        where j.id = any (finished) and exists (
            select from slayq.step s where s.state = 'pending' and s.term = slayq._term_1('', 'run', j.run_id::text)
                and s.match_value = j.run_id::text
        );
        if found then
            perform slayq._wake_1(array['@events']);
        end if;
        with ended as (
            delete from slayq.job j where j.id = any (finished)
            returning j.id, j.queue, j.event, j.attempts, j.payload, j.created_at, j.run_id
        )
        insert into slayq.done_job (id, queue, event, attempts, payload, created_at, run_id, output)
        select e.id, e.queue, e.event, e.attempts, e.payload, e.created_at, e.run_id, outputs[array_position(ids, e.id)]
        from ended e where keep_done
        on conflict (id) do nothing;
        return query select f, 'settled'::text, null::text, null::double precision, null::text from unnest(finished) as f;
    end if;

    if cardinality(parking) > 0 then
        return query
            with pending as materialized (
                select p.id,
                    min(s.due_at) filter (where s.state = 'pending') as due_at,
                    -- Invariant I: an outcome that the app has not seen, or nothing at all to wait for.
                    count(*) filter (where s.state = 'pending') = 0 or coalesce(bool_or(
                        s.kind in ('sleep', 'wait', 'invoke') and s.number > seen[array_position(ids, p.id)]
                    ), false) as at_once,
                    coalesce(bool_or(s.kind = 'run' and s.state = 'pending'), false) as failing
                from unnest(parking) as p (id)
                left join slayq.step s on s.job_id = p.id
                group by p.id
            )
            update slayq.job j
            set state = case when pending.at_once then 'ready' else 'scheduled' end,
                parked = not pending.at_once,
                worker_id = null, leased_at = null, delivery_failures = 0, updated_at = now(),
                -- Attempts are those of one stage, unless a step is still to be tried again.
                attempts = case when pending.failing then j.attempts - 1 else 0 end,
                run_at = case when pending.at_once then clock_timestamp()
                    else least(pending.due_at, '9999-12-31') end
            from pending
            where j.id = any (parking) and j.id = pending.id
            returning j.id, 'settled'::text, null::text,
                case when j.parked then extract(epoch from j.run_at - clock_timestamp())::double precision end,
                case when not j.parked then j.queue end;
    end if;

    for place in select p from generate_subscripts(ids, 1) as p where ends[p] not in ('done', 'suspended') loop
        if ends[place] = 'dead' then
            delete from slayq.job j where j.id = ids[place] returning * into run;
            run.last_error := errors[place];
            perform slayq._bury_1(run, reasons[place]);
            if json_typeof(outputs[place]) = 'array' then
                update slayq.step s set blamed = true
                where s.job_id = run.id and s.state = 'failed'
                    and s.name in (select step.value from json_array_elements_text(outputs[place]) as step);
            end if;
            return query select run.id, 'settled'::text, null::text, null::double precision, null::text;
            continue;
        end if;
        due := slayq._after_1(case ends[place] when 'released' then 0 else coalesce(delays[place], 0) end);
        -- Of one that is put off, the reason is its endpoint.
        update slayq.job j
        set state = case ends[place] when 'released' then 'ready' else 'scheduled' end,
            parked = false, worker_id = null, leased_at = null, updated_at = now(),
            run_at = case ends[place] when 'released' then j.run_at else due end,
            attempts = case ends[place] when 'retried' then j.attempts else greatest(j.attempts - 1, 0) end,
            put_off = case ends[place] when 'put_off' then reasons[place] else j.put_off end,
            put_off_until = case ends[place] when 'put_off' then due else j.put_off_until end,
            delivery_failures = case ends[place] when 'undelivered' then j.delivery_failures + 1
                when 'retried' then 0 else j.delivery_failures end,
            last_error = coalesce(errors[place], j.last_error)
        where j.id = ids[place]
        returning * into run;
        return query select run.id, 'settled'::text, null::text,
            case run.state when 'scheduled' then coalesce(delays[place], 0) end,
            case run.state when 'ready' then run.queue end;
    end loop;
end
$$;

-- Ends what pending steps of these runs waited for up to now: sleeps are over, waits and invocations have timed out. An
-- event or a callee's end that came in time counts, even if it has not been matched yet. Called with the runs' rows locked.
create function slayq._expire_steps_1(ids bigint[], out events bigint, out invocations bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    batch constant bigint := nextval('slayq.step_batch') << 20;
    place bigint := 0;
    expired slayq.step;
    run slayq.job;
    taken slayq.event;
begin
    events := 0;
    invocations := 0;
    for expired in
        select s.* from slayq.step s
        where s.job_id = any (ids) and s.state = 'pending' and s.kind <> 'run' and s.due_at <= clock_timestamp()
        order by s.due_at, s.job_id, s.name
    loop
        taken := null;
        if expired.kind = 'wait' then
            select * into run from slayq.job j where j.id = expired.job_id;
            taken := slayq._look_back_1(run, expired.term, expired.event, expired.match_key, expired.match_value);
        elsif expired.kind = 'invoke' then
            select * into taken from slayq.event e
            where e.term = expired.term and e.kind = 'invocation' and e.match_value = expired.match_value limit 1;
        end if;
        if taken.created_at > expired.due_at then
            taken := null;
        end if;
        place := place + 1;
        update slayq.step s
        set state = case when expired.kind = 'sleep' then 'done' else coalesce(taken.state, 'timed_out') end,
            number = batch + place,
            output = case when taken.state = 'done' then taken.value end,
            error = case when taken.state = 'failed' then taken.value end,
            event_id = case when expired.kind = 'wait' then taken.id end
        where s.job_id = expired.job_id and s.name = expired.name;
        events := events + (expired.kind = 'wait' and taken.id is null)::integer;
        invocations := invocations + (expired.kind = 'invoke' and taken.id is null)::integer;
    end loop;
end
$$;

-- The steps that wait for what has happened. An event that was there when a run began is not for it, and one that a wait of
-- the run has taken is for no other wait of it.
create function slayq._waiting_1(happened slayq.event) returns setof slayq.step
language sql stable as $$
    select s.* from slayq.step s
    left join slayq.job j on j.id = s.job_id
    left join slayq.dead_letter d on d.id = s.job_id
    where s.state = 'pending' and s.term = (happened).term and s.event = (happened).event
        and s.match_key = (happened).match_key and s.match_value = (happened).match_value
        and s.kind = case (happened).kind when 'event' then 'wait' else 'invoke' end
        and ((happened).kind = 'invocation' or (
            (
                (happened).created_at >= coalesce(j.created_at, d.created_at)
                or not pg_catalog.pg_visible_in_snapshot((happened).xid, coalesce(j.born, d.born))
            )
            and not exists (select from slayq.step t where t.job_id = s.job_id and t.event_id = (happened).id offset 0)
        ))
$$;

-- Ends a pending step with what has happened; false if it has its outcome already, or the run has taken this event. Of
-- several waits of a run for the same thing, the one that was there first.
create function slayq._hand_over_1(happened slayq.event, job bigint, step text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
begin
    update slayq.step s
    set state = happened.state, number = nextval('slayq.step_batch') << 20,
        output = case happened.state when 'done' then happened.value end,
        error = case happened.state when 'failed' then happened.value end,
        event_id = case happened.kind when 'event' then happened.id end
    where s.job_id = job and s.state = 'pending'
        and s.name = case happened.kind when 'invocation' then step else (
            select w.name from slayq.step w
            where w.job_id = job and w.state = 'pending' and w.kind = 'wait' and w.term = happened.term
                and w.event = happened.event and w.match_key = happened.match_key and w.match_value = happened.match_value
            order by w.created_at, w.name limit 1
        ) end
        and not exists (
            select from slayq.step t where happened.kind = 'event' and t.job_id = job and t.event_id = happened.id offset 0
        );
    return found;
end
$$;

-- Hands events and the ends of callees to the runs that wait for them: `most` events, or ten times as many outcomes, of
-- those after the event `after`. A run whose row somebody else has locked is left, and the event stays for the next
-- round. `more` says that the round is to go on, after the event `last`; `left_over`, that another is needed a little
-- later.
create function slayq._match_1(
    most integer, after bigint, out matched bigint, out ready text[], out more boolean, out left_over boolean,
    out last bigint
) language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    most_outcomes constant bigint := most * 10;
    happened slayq.event;
    waiting record;
    over bigint[] := '{}';
    woken text;
begin
    matched := 0;
    ready := '{}';
    left_over := false;
    last := after;
    perform slayq._lock_matching_1(true);
    for happened in
        select e.* from slayq.event e where not e.matched and e.id > after order by e.id limit most
    loop
        for waiting in
            select s.job_id, s.name from slayq._waiting_1(happened) as s join slayq.job j on j.id = s.job_id
            limit most_outcomes - matched
            for update of j skip locked
        loop
            continue when not slayq._hand_over_1(happened, waiting.job_id, waiting.name);
            matched := matched + 1;
            update slayq.job j
            set state = 'ready', parked = false, run_at = clock_timestamp(), updated_at = now()
            where j.id = waiting.job_id and j.state = 'scheduled' and j.parked
            returning j.queue into woken;
            if found and woken <> all (ready) then
                ready := ready || woken;
            end if;
        end loop;
        exit when matched >= most_outcomes;
        last := happened.id;
        perform slayq._hand_over_1(happened, s.job_id, s.name) from slayq._waiting_1(happened) as s
        where not exists (select from slayq.job j where j.id = s.job_id); -- dead letters, which may be put back
        if exists (select from slayq._waiting_1(happened)) then
            left_over := true;
        else
            over := over || happened.id;
        end if;
    end loop;
    delete from slayq.event e where e.id = any (over) and e.kind = 'invocation';
    update slayq.event e set matched = true where e.id = any (over) and e.kind = 'event';
    more := exists (select from slayq.event e where not e.matched and e.id > last);
end
$$;
