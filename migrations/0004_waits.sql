-- Waits, triggers and cancelling (protocol v1, section 3).
--
-- A wait and the trigger it waits for meet under one advisory lock per term: whoever comes second sees what the first
-- wrote, because each statement after the lock takes a new snapshot. A trigger is also remembered for a while, so that a
-- wait looks back to the time its continuation was added.
--
-- Lock order everywhere: term, job rows in id order, then their waits. (The promoter, which deletes the waits of the jobs
-- it promotes, holds job rows first too.)

create function slayq._lock_term_1(term bigint) returns void
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select pg_advisory_xact_lock(1936484722, (term & 2147483647)::integer)
$$;

-- Lets a parked job go on at once with `value` in its cache under `step`; it waits for nothing else from then on. Called
-- with the job's row locked.
create function slayq._resume_1(waiting_job bigint, step text, value json) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    resumed slayq.job;
begin
    update slayq.job set
        patches = case
            when patches is null then json_build_array(json_build_array(step, value))
            else slayq._concat_1(patches, json_build_array(json_build_array(step, value)))
        end,
        run_at = least(run_at, now()),
        state = case when state = 'scheduled' then slayq._entry_state_1(serial_queue, now()) else state end,
        updated_at = now()
    where id = waiting_job and state <> 'leased'
    returning * into resumed;
    if not found then
        return;
    end if;
    delete from slayq.wait where wait.job_id = waiting_job;
    perform slayq._wake_1(array_remove(array[slayq._wake_word_1(resumed.queue, resumed.state, resumed.run_at)], null));
end
$$;

-- Ends some waits with one value, each only if it is still there once its job's row is locked: a wait has one outcome.
create function slayq._resume_waits_1(waits bigint[], value json) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    waiting record;
begin
    for waiting in
        select w.id, w.job_id, w.step_name from slayq.wait w where w.id = any (waits) order by w.job_id, w.id
    loop
        perform from slayq.job j where j.id = waiting.job_id for update;
        delete from slayq.wait w where w.id = waiting.id;
        if found then
            perform slayq._resume_1(waiting.job_id, waiting.step_name, value);
        end if;
    end loop;
end
$$;

-- Parks the job of a key until a match or its run_at. A key that is unknown, due or being delivered has nothing to park:
-- the app's continuation was cancelled, replaced, never added or has timed out, and no work is lost by saying nothing.
create function slayq._wait_for_event_1(key text, event_name text, match_name text, match_text text, step text)
returns void language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    parked slayq.job;
    wanted constant bigint := slayq._term_1(event_name, match_name, match_text);
begin
    if key is null or event_name is null or match_name is null or match_text is null or step is null then
        raise exception 'a wait needs a job key, an event, a match key, a match value and a step name'
            using errcode = 'SQ007', hint = 'Pass all of _job_key, _event, _match_key, _match_value and _step_name.';
    end if;
    perform slayq._lock_term_1(wanted);
    select * into parked from slayq.job where job.job_key = key and state = 'scheduled' for update;
    if not found then
        return;
    end if;
    if exists (
        select from slayq.trigger t
        where t.term = wanted and t.kind = 'event' and t.created_at >= parked.created_at
            and t.event = event_name and t.match_key = match_name and t.match_value = match_text
    ) then
        perform slayq._resume_1(parked.id, step, 'true');
        return;
    end if;
    insert into slayq.wait (job_id, kind, term, event, match_key, match_value, step_name)
    values (parked.id, 'event', wanted, event_name, match_name, match_text, step)
    on conflict (job_id, md5(step_name)) do nothing;
end
$$;

create function slayq._wait_for_invocation_1(invoker_key text, callee_key text, step text)
returns void language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    parked slayq.job;
    wanted constant bigint := slayq._term_1('', 'invocation', callee_key);
    earlier slayq.trigger;
begin
    if invoker_key is null or callee_key is null or step is null then
        raise exception 'an invocation needs the invoker''s key, the target''s key and a step name'
            using errcode = 'SQ007', hint = 'Pass all of _invoker_job_key, _target_job_key and _step_name.';
    end if;
    perform slayq._lock_term_1(wanted);
    select * into parked from slayq.job where job.job_key = invoker_key and state = 'scheduled' for update;
    if not found then
        return;
    end if;
    select * into earlier from slayq.trigger t
    where t.term = wanted and t.kind = 'invocation' and t.created_at >= parked.created_at and t.target_key = callee_key
    order by t.created_at limit 1;
    if found then
        perform slayq._resume_1(parked.id, step, earlier.result);
        return;
    end if;
    insert into slayq.wait (job_id, kind, term, target_key, step_name)
    values (parked.id, 'invocation', wanted, callee_key, step)
    on conflict (job_id, md5(step_name)) do nothing;
end
$$;

-- Wakes every job that waits for this event and value.
create function slayq._trigger_event_1(event_name text, match_name text, match_text text)
returns void language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    wanted constant bigint := slayq._term_1(event_name, match_name, match_text);
begin
    if event_name is null or match_name is null or match_text is null then
        return; -- a value that is not there matches nothing
    end if;
    perform slayq._lock_term_1(wanted);
    insert into slayq.trigger (term, kind, event, match_key, match_value)
    values (wanted, 'event', event_name, match_name, match_text);
    perform slayq._resume_waits_1(
        array(
            select w.id from slayq.wait w
            where w.term = wanted and w.kind = 'event'
                and w.event = event_name and w.match_key = match_name and w.match_value = match_text
        ),
        'true'
    );
end
$$;

-- Hands a callee's result to every invoker that waits for it; null is JSON null.
create function slayq._trigger_invoker_1(callee_key text, result json)
returns void language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    wanted constant bigint := slayq._term_1('', 'invocation', callee_key);
    answer constant json := coalesce(result, 'null');
begin
    if callee_key is null then
        return;
    end if;
    perform slayq._lock_term_1(wanted);
    insert into slayq.trigger (term, kind, target_key, result) values (wanted, 'invocation', callee_key, answer);
    perform slayq._resume_waits_1(
        array(
            select w.id from slayq.wait w
            where w.term = wanted and w.kind = 'invocation' and w.target_key = callee_key
        ),
        answer
    );
end
$$;

-- Removes every pending job of an event whose data has this value under this key, with its waits, and marks those being
-- delivered so that nothing of them comes back. Returns how many were removed or marked.
--
-- The ids come from one snapshot, in which each job is in exactly one state; the rows are then locked by id alone, so
-- that a job which is leased or fails in between is still caught, in whatever state it then is. An app may just have
-- added the continuation of a job that is being delivered: after such jobs have been marked another look finds it.
--
-- A delivery may have ended for the server (it timed out, its daemon died) and still run in the app: the keys of jobs
-- that have been delivered, sleeping ones included, are remembered, and _add_job_1 drops what such an app adds once the
-- job's row is gone.
create function slayq._cancel_1(event_name text, match_name text, match_text text)
returns bigint language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off set plan_cache_mode = force_generic_plan
-- A collision leads to a page or two at the most: to read them takes less than to ask another process for them.
set effective_io_concurrency = 0 as $$
declare
    wanted constant bigint[] := array[slayq._match_term_1(event_name, match_name, match_text)];
    matching bigint[];
    removed bigint[];
    marked bigint;
    total bigint := 0;
begin
    if event_name is null or match_name is null or match_text is null then
        return 0;
    end if;
    loop
        matching := array(
            select j.id from slayq.job j
            where j.state <> 'leased' and j.match_terms @> wanted and j.event = event_name
            union all
            select j.id from slayq.job j
            where j.state = 'leased' and j.match_terms @> wanted and j.event = event_name and not j.cancelled
        );
        exit when cardinality(matching) = 0;
        -- A collision of the hash is ruled out by comparing the value itself.
        matching := array(
            select j.id from slayq.job j
            where j.id = any (matching) and j.event = event_name
                and slayq._scalar_text_1(slayq._readable_1(j.payload) -> 'data' -> match_name) = match_text
            order by j.id
            for update
        );
        exit when cardinality(matching) = 0;
        with gone as (
            delete from slayq.job j where j.id = any (matching) and j.state <> 'leased'
            returning j.id, j.job_key, j.attempts, j.payload
        ),
        remembered as (
            insert into slayq.trigger (term, kind, target_key)
            select slayq._term_1('', 'cancellation', gone.job_key), 'cancellation', gone.job_key
            from gone
            where gone.job_key is not null
                and (gone.attempts > 0 or slayq._readable_1(gone.payload) -> 'cache' is not null)
        )
        select array_agg(gone.id) into removed from gone;
        with running as (
            update slayq.job j set cancelled = true, updated_at = now()
            where j.id = any (matching) and j.state = 'leased'
            returning j.job_key
        ),
        remembered as (
            insert into slayq.trigger (term, kind, target_key)
            select slayq._term_1('', 'cancellation', running.job_key), 'cancellation', running.job_key
            from running where running.job_key is not null
        )
        select count(*) into marked from running;
        delete from slayq.wait w where w.job_id = any (removed);
        if removed is not null then
            perform slayq._wake_lanes_1();
        end if;
        total := total + coalesce(cardinality(removed), 0) + marked;
        exit when marked = 0;
    end loop;
    return total;
end
$$;
