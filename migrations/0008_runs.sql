-- Runs of durable functions (protocol v2): apps and their functions, sending events, cancelling.
-- compatible with: 7
--
-- A run is a job with a run_id: the same row, leased, limited and cancelled as any other. Beside it:
--
--     slayq.app ──< slayq.function     what apps have registered: one function an event
--     slayq.interest                   which functions an event cancels, or which may wait for it
--     slayq.job (run) ──< slayq.step   what is recorded of a run; pending steps are what it waits for
--     slayq.event                      what waits look for: events that some function waits for, and ends of callees
--
-- Invariants, each kept by the statements named:
--   F  Steps exist only beside their run's job or dead letter (the deferred triggers below).
--   G  A step's outcome is written once: only a pending step is ever changed (_flush_1, _match_1, _expire_steps_1).
--   H  No wake-up is lost. A sender only adds rows to slayq.event. Matching them to waits (_match_1, exclusively) and
--      adding waits, which look back (_flush_1, shared), exclude each other by the match lock; so whoever comes second
--      sees what the first wrote. Both are short transactions of daemons: no caller ever holds that lock.
--   I  What a run waits for makes it due only while it is parked; if the app that it is leased to has not seen an
--      outcome, it is due as soon as it suspends (_flush_1 compares the steps' numbers).
--
-- SQLSTATEs: SQ010 unknown event   SQ011 data that is no JSON object, or unreadable   SQ012 manifest
--            SQ013 an event of another app   SQ014 a send id that belongs to another event

create table slayq.app (
    name text primary key,
    url text not null,
    sdk text,
    -- As it was given: registering the same again changes nothing.
    manifest json not null,
    registered_at timestamptz not null default now()
);

create table slayq.function (
    event text primary key,
    app text not null references slayq.app (name),
    name text not null,
    url text not null,
    queue text not null,
    max_attempts integer not null,
    priority integer not null,
    cron text,
    schema json,
    invokes text[] not null default '{}'
);
create index function_app on slayq.function (app);

-- An event of which some function says that it cancels its runs, or that they may wait for it.
create table slayq.interest (
    event text not null,
    kind text not null check (kind in ('cancel', 'wait')),
    function_event text not null references slayq.function (event) on delete cascade,
    match_key text not null,
    primary key (event, kind, function_event, match_key)
);
create index interest_function on slayq.interest (function_event);

create unique index job_run on slayq.job (run_id) where run_id is not null;
create index dead_letter_run on slayq.dead_letter (run_id) where run_id is not null;
create index done_job_run on slayq.done_job (run_id) where run_id is not null;
create index job_run_age on slayq.job (event, created_at) where run_id is not null;
create index dead_letter_run_age on slayq.dead_letter (event, created_at) where run_id is not null;

create table slayq.step (
    job_id bigint not null,
    name text not null,
    kind text not null check (kind in ('run', 'send', 'sleep', 'wait', 'invoke')),
    state text not null check (state in ('pending', 'done', 'failed', 'timed_out')),
    -- Rises with every outcome, whichever run it belongs to: the order of completion.
    number bigint,
    output json,
    error json,
    attempts integer not null default 0,
    -- Pending: when it ends by itself (a sleep, a time-out) or may be tried again. infinity: never.
    due_at timestamptz,
    -- Pending waits and invocations: the hash by which they are found, and the texts that are then compared.
    term bigint,
    event text,
    match_key text,
    match_value text,
    -- The event that a wait took: it counts for no later wait of the same run.
    event_id bigint,
    -- Of the segment that said it: the same op once more is one whose flush was committed and the answer lost.
    lease bigint,
    -- Its failure made the run a dead letter: put back, the run tries the step again.
    blamed boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    primary key (job_id, name),
    constraint ended_by_number check ((state = 'pending') = (number is null))
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index step_waiting on slayq.step (term) include (kind) where state = 'pending' and term is not null;
-- A statement that writes outcomes takes one number, and a millionth of it for each.
create sequence slayq.step_batch;

create table slayq.event (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('event', 'invocation')),
    term bigint not null,
    event text not null,
    match_key text not null,
    match_value text not null,
    state text not null default 'done' check (state in ('done', 'failed')),
    value json not null,
    xid xid8 not null default pg_current_xact_id(),
    matched boolean not null default false,
    created_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index event_term on slayq.event (term, id);
create index event_unmatched on slayq.event (id) where not matched;
-- What is too old, name by name: of each, all that is older than some time goes.
create index event_age on slayq.event (event, created_at) where matched;

-- Ids that senders gave: sending twice creates one run.
create table slayq.sent (
    id text primary key,
    event text not null,
    run_id uuid,
    created_at timestamptz not null default clock_timestamp()
);
create index sent_created_at on slayq.sent (created_at);

-- How many deliveries in a row of one run may fail before it becomes a dead letter (slayq_server/engine/outcome.py).
create function slayq._delivery_budget_1() returns integer
language sql immutable parallel safe as 'select 25';

-- What a run's end leaves behind, at commit, when it is known whether it became a dead letter: its steps go with it, and
-- whoever invoked it is told, unless its result has been.
create function slayq._run_ended_1() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    callee constant text := old.run_id::text;
    wanted constant bigint := slayq._term_1('', 'run', callee);
    letter slayq.dead_letter;
begin
    if exists (select from slayq.job j where j.id = old.id) then
        return null; -- put back
    end if;
    select * into letter from slayq.dead_letter d where d.id = old.id;
    if not found then
        delete from slayq.step s where s.job_id = old.id;
    end if;
    if tg_relid = 'slayq.job'::regclass
        and exists (select from slayq.step s where s.state = 'pending' and s.term = wanted and s.match_value = callee)
        and not exists (select from slayq.event e where not e.matched and e.kind = 'invocation' and e.match_value = callee)
    then
        insert into slayq.event (kind, term, event, match_key, match_value, state, value)
        values ('invocation', wanted, '', 'run', callee, 'failed', json_build_object(
            'type', 'InvocationFailed',
            'message', format('the run %s of %s %s', callee, old.event, case
                when letter.id is null then 'was cancelled'
                else format('became a dead letter (%s): %s', letter.reason, coalesce(letter.last_error, 'no error'))
            end)
        ));
        -- At commit it is too late to be heard by the caller alone: everybody is notified.
        perform set_config('slayq.own_words', '', true);
        perform slayq._wake_1(array['@events']);
    end if;
    return null;
end
$$;

create constraint trigger run_ended after delete on slayq.job deferrable initially deferred
    for each row when (old.run_id is not null) execute function slayq._run_ended_1();
create constraint trigger letter_gone after delete on slayq.dead_letter deferrable initially deferred
    for each row when (old.run_id is not null) execute function slayq._run_ended_1();

-- A run that is cancelled while it is being delivered: its daemon closes the connection.
create function slayq._run_cancelled_1() returns trigger
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform slayq._wake_1(array['@cancel']);
    return null;
end
$$;
create trigger run_cancelled after update of cancelled on slayq.job
    for each row when (new.cancelled and new.run_id is not null) execute function slayq._run_cancelled_1();

-- Checks data that an event carries; raises SQ011 or SQ002. Postgres cannot look into a document that holds \u0000 or
-- half of a surrogate pair.
create function slayq._check_data_1(event_name text, data json) returns void
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
    if octet_length(data::text) > 4194304 then
        raise exception 'the data of % has % bytes, more than the limit of 4194304', quote_literal(event_name),
            octet_length(data::text)
            using errcode = 'SQ002', hint = 'Store large data elsewhere and send a reference to it.';
    elsif slayq._readable_1(data)::text is distinct from data::text then
        raise exception 'the data of % holds a NUL character or half of a surrogate pair', quote_literal(event_name)
            using errcode = 'SQ011', hint = 'Remove such characters, or send the text in base64.';
    elsif json_typeof(data) <> 'object' then
        raise exception 'the data of % must be a JSON object, not %', quote_literal(event_name), json_typeof(data)
            using errcode = 'SQ011', hint = 'Send an object such as {"order_id": "A-17"}.';
    end if;
end
$$;

-- Creates a run of a function. Its data has been checked.
create function slayq._create_run_1(
    target slayq.function, data json, due timestamptz, priority integer, traceparent text
) returns uuid language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    run constant uuid := gen_random_uuid();
    entry constant text := slayq._entry_state_1(null, due);
begin
    insert into slayq.job (queue, state, priority, run_at, max_attempts, event, match_terms, payload, run_id, born,
        traceparent, created_at)
    values (target.queue, entry, coalesce(priority, target.priority), due, target.max_attempts, target.event,
        slayq._match_terms_1(target.event, data),
        format('{"url":%s,"event":%s,"data":%s}', to_json(target.url), to_json(target.event), data)::json,
        run, pg_current_snapshot(),
        case when traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then traceparent end,
        clock_timestamp());
    perform slayq._wake_1(array_remove(array[slayq._wake_word_1(target.queue, entry, due)], null));
    return run;
end
$$;

-- Sends one event: cancels what it cancels, is kept for those who wait for it, and creates the run of its function.
-- Returns the run's id; null where it is nobody's function.
--
-- Lock order: the send id, then job rows as _cancel_1 takes them. What the event cancels is cancelled before its own run
-- is there, so that never the run that this very send creates.
create function slayq._send_1(
    event_name text, data json, send_id text, run_at timestamptz, priority integer, traceparent text
) returns uuid language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    given constant json := coalesce(data, '{}');
    target slayq.function;
    earlier slayq.sent;
    interest record;
    wanted text;
    waited boolean := false;
    known boolean;
    run uuid;
begin
    if coalesce(length(event_name), 0) not between 1 and 512 then
        raise exception 'the event''s name must have 1 to 512 characters' using errcode = 'SQ007',
            hint = 'Use a short name such as "shop/order.placed", and pass data in the data.';
    end if;
    perform slayq._check_data_1(event_name, given);
    perform slayq._check_job_1('-', null, run_at, null, null, priority);
    if length(send_id) not between 1 and 512 then
        raise exception 'the id of a send must have 1 to 512 characters, not %', length(send_id) using errcode = 'SQ007',
            hint = 'Use a short unique id, or a hash of the long one.';
    end if;
    select * into target from slayq.function f where f.event = event_name;
    known := found;
    if not known and not exists (select from slayq.interest i where i.event = event_name) then
        raise exception 'no app has registered a function for the event %, and none waits for it or is cancelled by it',
            quote_literal(event_name)
            using errcode = 'SQ010', hint = 'Start the app that has the function, which registers it, or mend the name.';
    end if;

    if send_id is not null then
        loop
            insert into slayq.sent (id, event) values (send_id, event_name) on conflict do nothing;
            exit when found;
            select * into earlier from slayq.sent s where s.id = send_id;
            continue when not found; -- pruned just now
            if earlier.event <> event_name then
                raise exception 'the id % has been sent already, with the event %', quote_literal(send_id),
                    quote_literal(earlier.event)
                    using errcode = 'SQ014', hint = 'Give each send an id of its own.';
            end if;
            return earlier.run_id;
        end loop;
    end if;

    for interest in
        select i.function_event, i.match_key from slayq.interest i
        where i.event = event_name and i.kind = 'cancel' order by i.function_event, i.match_key
    loop
        perform slayq._cancel_1(
            interest.function_event, interest.match_key, slayq._scalar_text_1(given -> interest.match_key)
        );
    end loop;
    for interest in
        select distinct i.match_key from slayq.interest i where i.event = event_name and i.kind = 'wait'
    loop
        wanted := slayq._scalar_text_1(given -> interest.match_key);
        continue when wanted is null;
        insert into slayq.event (kind, term, event, match_key, match_value, value)
        values ('event', slayq._term_1(event_name, interest.match_key, wanted), event_name, interest.match_key, wanted, given);
        waited := true;
    end loop;
    if waited then
        perform slayq._wake_1(array['@events']);
    end if;
    if known then
        run := slayq._create_run_1(target, given, coalesce(run_at, now()), priority, traceparent);
        if send_id is not null then
            update slayq.sent set run_id = run where id = send_id;
        end if;
    end if;
    return run;
end
$$;

-- Sends many events, in their order. Raises for the first that cannot be sent, and then none is.
create function slayq._send_many_1(events json) returns setof uuid
language plpgsql volatile rows 100 set search_path = pg_catalog, pg_temp as $$
declare
    element json;
    place bigint := 0;
    foreign_key text;
    due timestamptz;
    priority integer;
begin
    if events is null or slayq._readable_1(events)::text is distinct from events::text then
        raise exception 'the events hold a NUL character or half of a surrogate pair, or there are none'
            using errcode = 'SQ011', hint = 'Remove such characters, or send the text in base64.';
    elsif json_typeof(events) <> 'array' then
        raise exception 'the events must be a JSON array, not %', json_typeof(events) using errcode = 'SQ011',
            hint = 'Send [{"event": "shop/order.placed", "data": {}}].';
    end if;
    for element in select value from json_array_elements(events) loop
        if json_typeof(element) <> 'object' or json_typeof(element -> 'event') is distinct from 'string' then
            raise exception 'event % of the array must be an object with the name of its event', place
                using errcode = 'SQ011', hint = 'Send [{"event": "shop/order.placed", "data": {}}].';
        end if;
        select key into foreign_key from json_object_keys(element) as key
        where key not in ('event', 'data', 'id', 'run_at', 'priority', 'traceparent') limit 1;
        if found then
            raise exception 'event % of the array has an unknown member %', place, quote_literal(foreign_key)
                using errcode = 'SQ011', hint = 'Known are event, data, id, run_at, priority and traceparent.';
        end if;
        due := null;
        priority := null;
        if element ->> 'run_at' is not null or element ->> 'priority' is not null then
            begin
                due := (element ->> 'run_at')::timestamptz;
                priority := (element ->> 'priority')::integer;
            exception when data_exception then
                raise exception 'event % of the array has a run_at or a priority that cannot be read', place
                    using errcode = 'SQ005', hint = 'run_at is an ISO 8601 time with its zone, priority a whole number.';
            end;
        end if;
        return next slayq._send_1(
            element ->> 'event', case when json_typeof(element -> 'data') <> 'null' then element -> 'data' end,
            element ->> 'id', due, priority, element ->> 'traceparent'
        );
        place := place + 1;
    end loop;
end
$$;

-- Cancels a run: nothing of it comes back, whoever invoked it is told. False if there is no such run, or none any more.
create function slayq._cancel_run_1(run uuid) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
begin
    loop
        delete from slayq.job j where j.run_id = run and j.state <> 'leased';
        if found then
            perform slayq._wake_lanes_1();
            return true;
        end if;
        update slayq.job j set cancelled = true, updated_at = now() where j.run_id = run and j.state = 'leased';
        if found then
            return true;
        end if;
        -- Neither: there is none, or it changed hands between the two statements.
        if not exists (select from slayq.job j where j.run_id = run) then
            return false;
        end if;
    end loop;
end
$$;

-- One text of a manifest, checked. `place` names it in the error.
create function slayq._manifest_text_1(holder json, member text, longest integer, place text) returns text
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if json_typeof(holder -> member) is distinct from 'string'
        or length(holder ->> member) not between 1 and longest then
        raise exception 'the manifest''s % must be a text of 1 to % characters', place, longest using errcode = 'SQ012',
            hint = 'Manifests are made by the SDK: register with slayq register, or SlayQ.register().';
    end if;
    return holder ->> member;
end
$$;

-- One whole number of a manifest, checked; `fallback` where it is not given.
create function slayq._manifest_number_1(holder json, member text, lowest integer, highest integer, fallback integer, place text)
returns integer language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if holder -> member is null or json_typeof(holder -> member) = 'null' then
        return fallback;
    elsif json_typeof(holder -> member) <> 'number' or holder ->> member !~ '^-?[0-9]{1,6}$'
        or (holder ->> member)::integer not between lowest and highest then
        raise exception 'the manifest''s % must be a whole number from % to %', place, lowest, highest using errcode = 'SQ012',
            hint = 'Leave it out for the default.';
    end if;
    return (holder ->> member)::integer;
end
$$;

-- A list of a manifest; empty where it is not given.
create function slayq._manifest_list_1(holder json, member text, place text) returns setof json
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
begin
    if holder -> member is null or json_typeof(holder -> member) = 'null' then
        return;
    elsif json_typeof(holder -> member) <> 'array' then
        raise exception 'the manifest''s % must be a list', place using errcode = 'SQ012',
            hint = 'Leave it out if it is empty.';
    end if;
    return query select value from json_array_elements(holder -> member);
end
$$;

-- What an app is told that has registered: how many functions it has, and what looks odd about them.
create function slayq._registered_1(app_name text) returns json
language sql stable set search_path = pg_catalog, pg_temp as $$
    select json_build_object(
        'functions', (select count(*) from slayq.function f where f.app = app_name),
        'warnings', array(
            select format('%s invokes %s, which no app has registered yet', quote_literal(f.event), quote_literal(called))
            from slayq.function f, unnest(f.invokes) as called
            where f.app = app_name and not exists (select from slayq.function g where g.event = called)
            order by 1
        )
    )
$$;

-- Registers an app's functions, which replace those it had. Returns {"functions": n, "warnings": [text]}.
-- Registering is one at a time in the whole cluster; sending goes on meanwhile.
create function slayq._register_1(manifest json) returns json
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    app_name text;
    url text;
    entry json;
    element json;
    entries json[];
    events text[] := '{}';
    event_name text;
    place text;
    owner text;
    found_list text;
    scheduled text[] := '{}';
    replanned boolean := false;
begin
    if manifest is null or slayq._readable_1(manifest)::text is distinct from manifest::text
        or json_typeof(manifest) <> 'object' then
        raise exception 'the manifest must be a JSON object without NUL characters' using errcode = 'SQ012',
            hint = 'Manifests are made by the SDK: register with slayq register, or SlayQ.register().';
    elsif octet_length(manifest::text) > 4194304 then
        raise exception 'the manifest has % bytes, more than the limit of 4194304', octet_length(manifest::text)
            using errcode = 'SQ002', hint = 'Split the app in two, or simplify its schemas.';
    end if;
    app_name := slayq._manifest_text_1(manifest, 'app', 128, 'app');
    url := slayq._manifest_text_1(manifest, 'url', 2048, 'url');
    begin
        perform slayq._inspect_payload_1(json_build_object('url', url, 'event', '-'));
    exception when sqlstate 'SQ001' then
        raise exception '%', replace(sqlerrm, 'the payload', 'the manifest') using errcode = 'SQ012',
            hint = 'Set the url of SlayQ to the http or https address at which the app receives runs.';
    end;
    entries := array(select slayq._manifest_list_1(manifest, 'functions', 'functions'));
    if cardinality(entries) > 1000 then
        raise exception 'the manifest has % functions, more than the limit of 1000', cardinality(entries)
            using errcode = 'SQ012', hint = 'Split the app in two.';
    end if;

    perform pg_advisory_xact_lock(1936484724, 1);
    if exists (select from slayq.app a where a.name = app_name and a.manifest::text = _register_1.manifest::text) then
        return slayq._registered_1(app_name);
    end if;
    insert into slayq.app (name, url, sdk, manifest) values (app_name, url, left(manifest ->> 'sdk', 200), manifest)
    on conflict (name) do update set url = excluded.url, sdk = excluded.sdk, manifest = excluded.manifest,
        registered_at = now();
    delete from slayq.interest i using slayq.function f where f.event = i.function_event and f.app = app_name;

    foreach entry in array entries loop
        if json_typeof(entry) <> 'object' then
            raise exception 'each function of the manifest must be an object' using errcode = 'SQ012',
                hint = 'Manifests are made by the SDK: register with slayq register, or SlayQ.register().';
        end if;
        event_name := slayq._manifest_text_1(entry, 'event', 512, 'functions'' event');
        place := 'function of ' || quote_literal(event_name);
        if event_name = any (events) then
            raise exception 'the manifest has two functions of the event %', quote_literal(event_name)
                using errcode = 'SQ012', hint = 'An event has one function: give the other one an event of its own.';
        end if;
        select f.app into owner from slayq.function f where f.event = event_name and f.app <> app_name;
        if found then
            raise exception 'the event % belongs to the app %', quote_literal(event_name), quote_literal(owner)
                using errcode = 'SQ013',
                hint = 'Give the function another event, or register the other app without it first.';
        end if;
        events := events || event_name;
        if length(entry ->> 'cron') > 200 then
            raise exception 'the manifest''s % has a cron text of over 200 characters', place using errcode = 'SQ012',
                hint = 'Write five fields, such as "0 3 * * *", after "TZ=Europe/Rome " where a zone is meant.';
        end if;
        insert into slayq.function (event, app, name, url, queue, max_attempts, priority, cron, schema, invokes)
        values (
            event_name, app_name,
            case when entry -> 'name' is null then event_name
                else slayq._manifest_text_1(entry, 'name', 512, place || ' name') end,
            url,
            case when entry -> 'queue' is null then 'general'
                else slayq._manifest_text_1(entry, 'queue', 128, place || ' queue') end,
            slayq._manifest_number_1(entry, 'retries', 0, 32766, 25, place || ' retries') + 1,
            slayq._manifest_number_1(entry, 'priority', 0, 32767, 0, place || ' priority'),
            entry ->> 'cron',
            case when json_typeof(entry -> 'schema') <> 'null' then entry -> 'schema' end,
            array(select name #>> '{}' from slayq._manifest_list_1(entry, 'invokes', place || ' invokes') as name)
        )
        on conflict (event) do update set
            app = excluded.app, name = excluded.name, url = excluded.url, queue = excluded.queue,
            max_attempts = excluded.max_attempts, priority = excluded.priority, cron = excluded.cron,
            schema = excluded.schema, invokes = excluded.invokes;
        perform slayq._check_job_1(f.queue, null, null, null, null, null) from slayq.function f where f.event = event_name;
        foreach found_list in array array['cancel_on', 'waits_on'] loop
            for element in select slayq._manifest_list_1(entry, found_list, place || ' ' || found_list) loop
                insert into slayq.interest (event, kind, function_event, match_key)
                values (
                    slayq._manifest_text_1(element, 'event', 512, place || ' ' || found_list || ' event'),
                    case found_list when 'cancel_on' then 'cancel' else 'wait' end,
                    event_name,
                    slayq._manifest_text_1(element, 'match', 512, place || ' ' || found_list || ' match')
                )
                on conflict do nothing;
            end loop;
        end loop;
        if entry ->> 'cron' is not null then
            scheduled := scheduled || ('function:' || event_name);
        end if;
    end loop;

    -- A schedule goes when the manifest no longer has it. One that is new, or has another text, waits to be planned.
    delete from slayq.schedule s
    where s.kind = 'function' and not s.id = any (scheduled)
        and s.event in (select f.event from slayq.function f where f.app = app_name);
    delete from slayq.function f where f.app = app_name and not f.event = any (events);
    for entry in select to_json(f) from slayq.function f where f.app = app_name and f.cron is not null loop
        insert into slayq.schedule as old (id, cron, queue, event, url, kind, next_at, planned)
        values ('function:' || (entry ->> 'event'), entry ->> 'cron', entry ->> 'queue', entry ->> 'event', url, 'function',
            'infinity', false)
        on conflict (id) do update set
            queue = excluded.queue, url = excluded.url, seen_at = now(),
            next_at = case when old.cron = excluded.cron then old.next_at else excluded.next_at end,
            planned = old.planned and old.cron = excluded.cron,
            cron = excluded.cron;
        replanned := true;
    end loop;
    if replanned then
        perform slayq._wake_1(array['@schedules']);
    end if;

    return slayq._registered_1(app_name);
end
$$;

-- What apps call.

create function slayq.register(manifest json) returns json
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._register_1(manifest)
$$;

create function slayq.send(
    event text, data json default '{}', id text default null, run_at timestamptz default null,
    priority integer default null, traceparent text default null
) returns uuid language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._send_1(event, data, id, run_at, priority, traceparent)
$$;

create function slayq.send_many(events json) returns setof uuid
language sql volatile security definer rows 100 set search_path = pg_catalog, pg_temp as $$
    select slayq._send_many_1(events)
$$;

create function slayq.cancel(run uuid) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._cancel_run_1(run)
$$;

-- The same for PostgREST, which exposes only public.

create function public.slayq_register(manifest json) returns json
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._register_1(manifest)
$$;

create function public.slayq_send(
    event text, data json default '{}', id text default null, run_at timestamptz default null,
    priority integer default null, traceparent text default null
) returns uuid language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._send_1(event, data, id, run_at, priority, traceparent)
$$;

create function public.slayq_send_many(events json) returns setof uuid
language sql volatile security definer rows 100 set search_path = pg_catalog, pg_temp as $$
    select slayq._send_many_1(events)
$$;

create function public.slayq_cancel(run uuid) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._cancel_run_1(run)
$$;
