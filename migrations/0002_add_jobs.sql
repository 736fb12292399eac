-- Adding jobs: the checks, the single add, the bulk add, and who is woken by them.
--
-- Private functions carry a version in their name (_1): a later release adds _2 beside them, so that the release before
-- runs on the newer schema. Functions that read job, wait or dead_letter switch sequential scans off: a session keeps
-- plans from when the tables were small, and none of these looks is better off reading a whole table. Where that leaves
-- only a sequential scan (of a small table) its nominal cost is huge, so compilation is switched off with it.
-- SQLSTATEs of our own are of class SQ0:
--   SQ001 payload without a usable url or event   SQ002 too large   SQ003 job key   SQ004 job_key_mode
--   SQ005 a number or time out of range           SQ006 queue name  SQ007 another name or text

create type slayq.job_spec as (
    identifier text,
    payload json,
    queue_name text,
    run_at timestamptz,
    max_attempts integer,
    job_key text,
    priority integer,
    flags text[]
);

-- Graphile Worker's view, without payloads, and with the state and event beside it.
create view slayq.jobs as
select
    job.id, job.serial_queue as queue_name, job.queue as task_identifier, job.priority, job.run_at, job.attempts,
    job.max_attempts, job.last_error, job.created_at, job.updated_at, job.job_key as key, job.leased_at as locked_at,
    job.worker_id::text as locked_by, job.revision, job.flags, job.state, job.event
from slayq.job;

-- The text that JavaScript prints for a JSON number, for the comparison of match values. Digits alone are the common
-- case; the rest goes through the double.
create function slayq._js_number_1(number text) returns text
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp set extra_float_digits = 1 as $$
declare
    sign constant text := case when number like '-%' then '-' else '' end;
    value double precision;
    mantissa text;
    digits text;
    exponent integer; -- of the first digit
    shorter text;
begin
    if number ~ '^-?(0|[1-9][0-9]{0,14})$' then
        return case when number = '-0' then '0' else number end;
    end if;
    begin
        value := abs(number::double precision);
    exception when numeric_value_out_of_range then
        -- JSON.parse reads an overflow as Infinity and an underflow as 0: the place of the first digit that counts tells.
        mantissa := substring(number from '^-?([0-9.]+)');
        exponent := coalesce(substring(number from '[eE]\+?(-?0*[0-9]{1,8})')::integer, 0) + case
            when mantissa like '0%' then -length(substring(mantissa from '^0\.(0*)'))
            else length(split_part(mantissa, '.', 1))
        end;
        return case when exponent < 0 then '0' else sign || 'Infinity' end;
    end;
    if value = 0 then
        return '0';
    end if;

    mantissa := split_part(value::text, 'e', 1);
    exponent := split_part(value::text || 'e0', 'e', 2)::integer + length(split_part(mantissa, '.', 1)) - 1;
    digits := replace(mantissa, '.', '');
    exponent := exponent - length(digits) + length(ltrim(digits, '0'));
    digits := trim(digits, '0');
    -- Both print the shortest digits that lead back to the double, but Postgres leaves out those that lie on the very
    -- edge between two doubles.
    for places in 15..16 loop
        exit when length(digits) <= places or exponent > 307;
        shorter := round(digits::numeric, places - length(digits))::text;
        if (shorter || 'e' || exponent - length(digits) + 1)::double precision = value then
            exponent := exponent + length(shorter) - length(digits);
            digits := rtrim(shorter, '0');
        end if;
    end loop;

    return sign || case
        when exponent between -6 and -1 then '0.' || repeat('0', -exponent - 1) || digits
        when exponent between 0 and 20 and length(digits) <= exponent + 1 then rpad(digits, exponent + 1, '0')
        when exponent between 0 and 20 then left(digits, exponent + 1) || '.' || substr(digits, exponent + 2)
        else left(digits, 1) || case when length(digits) > 1 then '.' || substr(digits, 2) else '' end
            || case when exponent < 0 then 'e-' else 'e+' end || abs(exponent)
    end;
end
$$;

-- What hashes a match: (event, key, value as text). Collisions are harmless: whoever looks up compares the texts again.
create function slayq._term_1(event text, match_key text, match_value text) returns bigint
language sql immutable parallel safe as $$
    select pg_catalog.hashtextextended(event || E'\x1f' || match_key || E'\x1f' || match_value, 0)
$$;

-- What jobs are found by when they are cancelled: one of 1,048,576 numbers, no more, because a GIN index keeps each key
-- that it has ever had, also when no row has it any more. So the index of match terms stays below some 40 MB, but for what
-- is in the table, however many values come by.
create function slayq._match_term_1(event text, match_key text, match_value text) returns bigint
language sql immutable parallel safe as $$
    select slayq._term_1(event, match_key, match_value) & 1048575
$$;

-- The text of a JSON scalar as JavaScript prints it (5, true, abc); null for null, arrays and objects. Without a search
-- path of its own and not strict, so that it becomes a part of the statement that calls it; most numbers need no look.
create function slayq._scalar_text_1(value json) returns text
language sql immutable parallel safe as $$
    select case pg_catalog.json_typeof(value)
        when 'string' then value operator(pg_catalog.#>>) '{}'
        when 'number' then case
            when value operator(pg_catalog.#>>) '{}' operator(pg_catalog.~) '^(0|-?[1-9][0-9]{0,14})$'
                then value operator(pg_catalog.#>>) '{}'
            else slayq._js_number_1(value operator(pg_catalog.#>>) '{}')
        end
        when 'boolean' then value operator(pg_catalog.#>>) '{}'
    end
$$;

-- The match terms of a payload's data: one for each scalar member. null where there are none.
create function slayq._match_terms_1(event text, data json) returns bigint[]
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
    if data is null or json_typeof(data) <> 'object' then
        return null;
    end if;
    return (
        select array_agg(distinct slayq._match_term_1(event, member.key, slayq._scalar_text_1(member.value)))
        from json_each(data) as member
        where json_typeof(member.value) in ('string', 'number', 'boolean')
    );
end
$$;

-- A copy of a payload that Postgres can look into. The json type stores \u0000 and lone surrogates as they are, but
-- refuses to read any member of a document that has one; in the copy, and there alone, U+001A (substitute) stands for
-- each, so that hardly any text that somebody names is taken for one of theirs.
create function slayq._readable_1(payload json) returns json
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
    if position('\u' in payload::text) = 0 then
        return payload;
    end if;
    perform payload -> 'url';
    return payload;
exception when untranslatable_character or invalid_text_representation then
    -- Escaped backslashes and whole surrogate pairs step aside as control characters, which JSON text cannot have.
    return replace(replace(regexp_replace(
        regexp_replace(
            replace(payload::text, '\\', E'\x01'),
            '\\(u[dD][89abAB][0-9a-fA-F]{2})\\(u[dD][c-fC-F][0-9a-fA-F]{2})', E'\x02\\1\x02\\2', 'g'
        ),
        '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', '\\u001a', 'g'
    ), E'\x02', '\'), E'\x01', '\\')::json;
end
$$;

-- Checks a payload and returns what the job row needs of it. Raises SQ001, SQ002 or SQ007. A batch has no match terms:
-- cancelling acts on whole jobs, and one element must not take the others with it.
create function slayq._inspect_payload_1(payload json, out event text, out match_terms bigint[])
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
declare
    readable json;
    target json;
    url text;
    element json;
begin
    if payload is null then
        raise exception 'the job has no payload' using errcode = 'SQ001',
            hint = 'Give a payload such as {"url": "https://app.example.com/api", "event": "shop/order", "data": {}}.';
    end if;
    if octet_length(payload::text) > 4194304 then
        raise exception 'the payload has % bytes, more than the limit of 4194304', octet_length(payload::text)
            using errcode = 'SQ002', hint = 'Store large data elsewhere and send a reference to it.';
    end if;
    readable := slayq._readable_1(payload);
    target := readable;
    if json_typeof(readable) = 'array' then
        -- A batch job: an array of payloads that go to one url as one event.
        target := readable -> 0;
        if target is null or json_typeof(target) <> 'object' then
            raise exception 'a batch payload must be an array of at least one {"url", "event", "data"} object'
                using errcode = 'SQ001', hint = 'Send a single object for a single job.';
        end if;
        for element in select * from json_array_elements(readable) loop
            if json_typeof(element) <> 'object' or element ->> 'url' is distinct from target ->> 'url'
                or element ->> 'event' is distinct from target ->> 'event' then
                raise exception 'the elements of a batch payload must all have the same url and event'
                    using errcode = 'SQ001', hint = 'Add a job for each url and event.';
            end if;
        end loop;
    elsif json_typeof(readable) <> 'object' then
        raise exception 'the payload must be a JSON object, not %', json_typeof(readable) using errcode = 'SQ001',
            hint = 'Give a payload such as {"url": "https://app.example.com/api", "event": "shop/order", "data": {}}.';
    end if;
    url := case when json_typeof(target -> 'url') = 'string' then target ->> 'url' end;
    event := case when json_typeof(target -> 'event') = 'string' then target ->> 'event' end;
    if position(E'\x1a' in concat(url, event)) > 0 then
        raise exception 'the payload''s url or event has half of a surrogate pair, a NUL or a SUB character in it'
            using errcode = 'SQ001', hint = 'Such characters may stand in "data" only.';
    elsif coalesce(url, '') = '' then
        raise exception 'the payload has no usable url' using errcode = 'SQ001',
            hint = 'Set "url" to the http or https address of the app''s Slay Q endpoint.';
    elsif url !~* '^https?://[^/?#\s]' then
        raise exception 'the payload''s url is not an http or https address' using errcode = 'SQ001',
            hint = 'Callbacks go to http:// and https:// addresses only.';
    elsif url ~ '^[^/]*//[^/?#]*@' then
        raise exception 'the payload''s url carries credentials' using errcode = 'SQ001',
            hint = 'Leave user and password out of the url: callbacks are signed.';
    elsif length(url) > 2048 or url ~ '[\s[:cntrl:]]' then
        raise exception 'the payload''s url is longer than 2048 characters or has white space in it'
            using errcode = 'SQ001', hint = 'Percent-encode the url, and pass data in "data".';
    elsif coalesce(event, '') = '' then
        raise exception 'the payload has no usable event' using errcode = 'SQ001',
            hint = 'Set "event" to the name of the event, for example "shop/order.placed".';
    elsif length(event) > 512 then
        raise exception 'the event name has % characters, more than the limit of 512', length(event)
            using errcode = 'SQ007', hint = 'Use a short name such as "shop/order.placed", and pass data in "data".';
    end if;
    if json_typeof(readable) = 'object' then
        match_terms := slayq._match_terms_1(event, target -> 'data');
    end if;
end
$$;

-- Checks everything of a job but its payload. Raises SQ003 to SQ007.
create function slayq._check_job_1(
    identifier text, queue_name text, run_at timestamptz, max_attempts integer, job_key text, priority integer
) returns void language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
begin
    if coalesce(length(identifier), 0) not between 1 and 128 then
        raise exception 'the queue name (identifier) must have 1 to 128 characters' using errcode = 'SQ006',
            hint = 'Use the name of a queue in slay-config.json.';
    elsif identifier like '@%' then
        raise exception 'the queue name (identifier) must not begin with @' using errcode = 'SQ006',
            hint = 'Such names are the server''s own. Use the name of a queue in slay-config.json.';
    elsif length(queue_name) not between 1 and 512 then
        raise exception 'the serial queue''s name (queue_name) must have 1 to 512 characters' using errcode = 'SQ006',
            hint = 'Leave queue_name out for jobs that may run side by side.';
    elsif length(job_key) not between 1 and 512 then
        raise exception 'the job key must have 1 to 512 characters, not %', length(job_key) using errcode = 'SQ003',
            hint = 'Use a short unique key, or a hash of the long one.';
    elsif max_attempts not between 1 and 32767 then
        raise exception 'max_attempts must be from 1 to 32767, not %', max_attempts using errcode = 'SQ005',
            hint = 'Leave it out for the queue''s default.';
    elsif priority not between -32768 and 32767 then
        raise exception 'priority must be from -32768 to 32767, not %', priority using errcode = 'SQ005',
            hint = 'Lower numbers run first; 0 is the default.';
    elsif not isfinite(run_at) or run_at > '9999-12-31 23:59:59.999+00' then
        raise exception 'run_at must be a time before the year 10000' using errcode = 'SQ005',
            hint = 'Leave it out to run at once.';
    end if;
end
$$;

-- For statements of daemons that lock rows with `skip locked`: true, and from here on their transaction gives up a lock
-- that it does not get soon. Such a statement waits all the same in one case: a row was free again just as it was tried,
-- and by then its next version is locked. Daemons hold other rows meanwhile, so a caller that adds several keys could
-- wait for the daemon in turn. (It holds for all locks of the transaction; _lock_lanes_1 has a limit of its own.) That circle is broken here, before Postgres looks for one (deadlock_timeout, 1 s) and may
-- make the caller fail; the daemon just tries again.
create function slayq._impatient_1() returns boolean
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select set_config('lock_timeout', '100ms', true) is not null
$$;

-- The words in a setting of this transaction (the text of a text[]); none where it is not set.
create function slayq._words_1(setting text) returns text[]
language sql stable as $$
    select coalesce(nullif(pg_catalog.current_setting(setting, true), '')::pg_catalog.text[], '{}')
$$;

-- Wakes the daemons that sit idle: NOTIFY is sent only for a queue that a live worker says it wants, because commits
-- that notify queue up behind one lock of the whole cluster. A daemon that calls for an app goes by some words itself:
-- those that it names in the setting slayq.own_words are not sent, but added to slayq.heard.
create function slayq._wake_1(words text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    own constant text[] := slayq._words_1('slayq.own_words');
    word text;
begin
    foreach word in array words loop
        if word = any (own) then
            if word <> all (slayq._words_1('slayq.heard')) then
                perform set_config('slayq.heard', (slayq._words_1('slayq.heard') || word)::text, true);
            end if;
        elsif exists (select from slayq.worker where worker.wants @> array[word] and worker.expires_at > now()) then
            perform pg_notify('slayq', word);
        end if;
    end loop;
end
$$;

-- Wakes whoever picks the heads of serial queues, after a change that may have taken a head away: a job pending in a
-- serial queue was changed or removed from outside. Says nothing while no serial queue has anything waiting.
create function slayq._wake_lanes_1() returns void
language sql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
    select slayq._wake_1(array['@lanes']) where exists (select from slayq.job where state = 'blocked')
$$;

-- The state of a job that nobody holds, and what is to be woken for it. A job of a serial queue always goes through the
-- promoter ('scheduled', even when due), the only one to pick heads; so a caller's open transaction never holds a lane.
create function slayq._entry_state_1(serial_queue text, run_at timestamptz) returns text
language sql stable parallel safe as $$
    select case when serial_queue is null and run_at <= pg_catalog.now() then 'ready' else 'scheduled' end
$$;

-- The word that wakes for a job: its queue's name when ready; '@timer' when due before the daemons' next look, which
-- comes with each renewal of their worker rows, every 5 seconds at the latest.
create function slayq._wake_word_1(queue text, state text, run_at timestamptz) returns text
language sql stable parallel safe as $$
    select case
        when state = 'ready' then queue
        when run_at < pg_catalog.now() + interval '6 seconds' then '@timer'
    end
$$;

-- Seconds to wait after attempt n, by the queue's rule (engine/backoff.py computes the same):
-- min(max, base * factor ^ (min(n, cap) - 1)) * (1 +- jitter).
create function slayq._backoff_1(queue_name text, attempt integer) returns interval
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select make_interval(secs => coalesce(
        (
            select least(
                coalesce(backoff_max, 'Infinity'),
                backoff_base * power(backoff_factor, least(attempt, backoff_cap) - 1)
            ) * (1 + backoff_jitter * (2 * random() - 1))
            from slayq.queue where name = queue_name
        ),
        exp(least(attempt, 10)) * (0.9 + 0.2 * random())
    ))
$$;

-- Whether the run is over that an app goes on with whose delivery has ended for the server alone (it timed out, its
-- daemon died), so that no row has its key: it was cancelled not long ago, or is a dead letter of the last hour. Such a
-- letter gets the steps that are told with a failed one. Called while the key is held by a row that was just added: a
-- letter that is being put back meanwhile waits for that key, so it is not waited for, and comes back as it is.
create function slayq._is_over_1(
    key text, reports_failure boolean, event text, payload json, match_terms bigint[]
) returns boolean language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    letter bigint;
begin
    if exists (
        select from slayq.trigger t
        where t.term = slayq._term_1('', 'cancellation', key) and t.kind = 'cancellation' and t.target_key = key
    ) then
        return true;
    end if;
    if not reports_failure then
        return false;
    end if;
    select d.id into letter from slayq.dead_letter d
    where d.job_key = key and d.event = _is_over_1.event and d.died_at > now() - interval '1 hour'
    order by d.died_at desc, d.id desc limit 1;
    if not found then
        return false;
    end if;
    update slayq.dead_letter set payload = _is_over_1.payload, match_terms = _is_over_1.match_terms, patches = null
    where dead_letter.id = (select d.id from slayq.dead_letter d where d.id = letter for update skip locked);
    return true;
end
$$;

-- Adds one job. Returns its row, or null where there is nothing to show (the attempts of a failed continuation are used
-- up, or the run it continues was cancelled or is a dead letter).
--
-- A key is unique among live jobs. Lock order: the row of the key (by the insert's conflict), then its waits.
-- The loop ends because each round either inserts, updates a row that nobody holds, or frees the key of one being delivered.
create function slayq._add_job_1(
    identifier text, payload json, queue_name text, run_at timestamptz, max_attempts integer, job_key text,
    priority integer, flags text[], job_key_mode text
) returns slayq.job language plpgsql volatile
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    key constant text := job_key;
    mode constant text := coalesce(job_key_mode, 'replace');
    due constant timestamptz := coalesce(run_at, now());
    entry constant text := slayq._entry_state_1(queue_name, due);
    -- A payload with a cache is a continuation; without a time, it is what an app sends whose step threw (protocol v1,
    -- section 3).
    continues boolean := false;
    reports_failure boolean := false;
    given_attempts constant integer := max_attempts;
    attempts_limit integer;
    facts record;
    added slayq.job;
    running slayq.job;
begin
    perform slayq._check_job_1(identifier, queue_name, run_at, max_attempts, job_key, priority);
    if mode not in ('replace', 'preserve_run_at', 'unsafe_dedupe') then
        raise exception 'job_key_mode must be replace, preserve_run_at or unsafe_dedupe, not %', quote_literal(mode)
            using errcode = 'SQ004', hint = 'Leave it out for replace.';
    end if;
    select * into facts from slayq._inspect_payload_1(payload);
    select coalesce(given_attempts, (select q.max_attempts from slayq.queue q where q.name = identifier), 25)
    into attempts_limit;

    if key is null then
        insert into slayq.job (queue, state, priority, run_at, max_attempts, serial_queue, event, match_terms, flags, payload)
        values (identifier, entry, coalesce(priority, 0), due, attempts_limit, queue_name, facts.event,
                facts.match_terms, flags, payload)
        returning * into added;
        perform slayq._wake_1(array_remove(array[slayq._wake_word_1(identifier, entry, due)], null));
        return added;
    end if;

    continues := json_typeof(payload) = 'object' and slayq._readable_1(payload) -> 'cache' is not null;
    reports_failure := continues and run_at is null and mode = 'replace';
    loop
        insert into slayq.job as old
            (queue, state, priority, run_at, max_attempts, job_key, serial_queue, event, match_terms, flags, payload)
        values (identifier, entry, coalesce(priority, 0), due, attempts_limit, key, queue_name, facts.event,
                facts.match_terms, flags, payload)
        on conflict (job_key) where job_key is not null do update set
            revision = old.revision + 1,
            updated_at = now(),
            queue = case when mode = 'unsafe_dedupe' then old.queue else excluded.queue end,
            -- A job that holds its serial queue lets go of it here: it goes through the promoter again.
            holds = case when mode = 'unsafe_dedupe' then old.holds else false end,
            run_at = case
                when mode = 'unsafe_dedupe' then old.run_at
                -- What is merely put off, because an endpoint is away, has no time of its own.
                when mode = 'preserve_run_at' and old.attempts = 0 then case
                    when old.run_at = old.put_off_until then least(old.run_at, excluded.run_at) else old.run_at
                end
                when reports_failure and old.attempts > 0 then old.run_at
                else excluded.run_at
            end,
            state = case
                when mode = 'unsafe_dedupe' then old.state
                when mode = 'preserve_run_at' and old.attempts = 0 then slayq._entry_state_1(
                    excluded.serial_queue,
                    case when old.run_at = old.put_off_until then least(old.run_at, excluded.run_at) else old.run_at end
                )
                when reports_failure and old.attempts > 0 then slayq._entry_state_1(excluded.serial_queue, old.run_at)
                else excluded.state
            end,
            priority = case when mode = 'unsafe_dedupe' then old.priority else excluded.priority end,
            -- The report of a failed step that comes a second time must not give the attempts back.
            attempts = case when mode = 'unsafe_dedupe' or reports_failure then old.attempts else 0 end,
            max_attempts = case
                when mode = 'unsafe_dedupe' or reports_failure and given_attempts is null then old.max_attempts
                else excluded.max_attempts
            end,
            serial_queue = case when mode = 'unsafe_dedupe' then old.serial_queue else excluded.serial_queue end,
            event = case when mode = 'unsafe_dedupe' then old.event else excluded.event end,
            match_terms = case when mode = 'unsafe_dedupe' then old.match_terms else excluded.match_terms end,
            flags = case when mode = 'unsafe_dedupe' then old.flags else excluded.flags end,
            payload = case
                when mode = 'unsafe_dedupe' then old.payload
                when json_typeof(old.payload) = 'array' and json_typeof(excluded.payload) = 'array'
                    then slayq._concat_1(old.payload, excluded.payload)
                else excluded.payload
            end,
            patches = case when mode = 'unsafe_dedupe' then old.patches end,
            last_error = case when mode = 'unsafe_dedupe' or reports_failure then old.last_error end
        where old.state <> 'leased'
        returning * into added;
        if found then
            if continues and added.revision = 0 and running.id is null
                and slayq._is_over_1(key, reports_failure, facts.event, payload, facts.match_terms) then
                delete from slayq.job where job.id = added.id;
                return null;
            end if;
            if added.revision > 0 and mode <> 'unsafe_dedupe' then
                delete from slayq.wait where wait.job_id = added.id;
                perform slayq._wake_lanes_1();
                if json_typeof(added.payload) = 'array' then
                    perform slayq._inspect_payload_1(added.payload); -- two that were joined must make one batch
                end if;
            end if;
            exit;
        end if;

        -- The key's row is being delivered, and the conflict has locked it.
        select * into running from slayq.job where job.job_key = key and state = 'leased' for update;
        continue when not found;
        if mode = 'unsafe_dedupe' then
            update slayq.job set revision = revision + 1, updated_at = now() where job.id = running.id
            returning * into added;
            exit;
        end if;
        if continues and (running.cancelled or running.superseded) then
            -- Nothing of a run that was cancelled or has died comes back. It keeps its key until its delivery ends, so
            -- that whatever else the app says of it finds it here; only a fresh job takes the key.
            if reports_failure and not running.cancelled then
                update slayq.dead_letter set payload = _add_job_1.payload, match_terms = facts.match_terms
                where dead_letter.id = (select max(d.id) from slayq.dead_letter d where d.job_key = key);
            end if;
            return null;
        end if;
        if reports_failure then
            return slayq._continue_failed_1(
                running, identifier, payload, queue_name, given_attempts, key, priority, flags, facts.event,
                facts.match_terms
            );
        end if;
        update slayq.job set job_key = null, superseded = true, updated_at = now() where job.id = running.id;
    end loop;
    perform slayq._wake_1(array_remove(array[slayq._wake_word_1(added.queue, added.state, added.run_at)], null));
    return added;
end
$$;

-- The failed attempt that an app reports by adding its own key again: attempts go on, back-off applies, and at the end a
-- dead letter keeps the finished steps. Called with the delivery's row locked.
create function slayq._continue_failed_1(
    running slayq.job, identifier text, payload json, queue_name text, max_attempts integer, key text, priority integer,
    flags text[], event text, match_terms bigint[]
) returns slayq.job language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    attempts_limit constant integer := coalesce(max_attempts, running.max_attempts);
    reported constant text := 'the app reported that a step failed';
    due timestamptz;
    added slayq.job;
begin
    if running.attempts >= attempts_limit then
        insert into slayq.dead_letter (id, queue, reason, priority, attempts, max_attempts, job_key, serial_queue, event,
            match_terms, flags, payload, last_error, run_at, created_at)
        values (nextval('slayq.job_id_seq'), identifier, 'attempts-exhausted', coalesce(priority, 0), running.attempts,
            attempts_limit, key, queue_name, event, match_terms, flags, payload, reported, running.run_at,
            running.created_at);
        update slayq.job set superseded = true, updated_at = now() where id = running.id;
        return null;
    end if;
    update slayq.job set job_key = null, superseded = true, updated_at = now() where id = running.id;
    due := clock_timestamp() + slayq._backoff_1(identifier, running.attempts);
    insert into slayq.job (queue, state, priority, run_at, attempts, max_attempts, job_key, serial_queue, event,
        match_terms, flags, payload, last_error, created_at)
    values (identifier, 'scheduled', coalesce(priority, 0), due, running.attempts, attempts_limit, key, queue_name, event,
        match_terms, flags, payload, reported, running.created_at)
    returning * into added;
    perform slayq._wake_1(array_remove(array[slayq._wake_word_1(identifier, 'scheduled', due)], null));
    return added;
end
$$;

-- Two JSON arrays, one after the other, their elements' texts as they were.
create function slayq._concat_1(first json, second json) returns json
language sql immutable parallel safe set search_path = pg_catalog, pg_temp as $$
    select case
        when btrim(first::text, E' \t\r\n[]') = '' then second
        when btrim(second::text, E' \t\r\n[]') = '' then first
        else (
            regexp_replace(first::text, '\s*\]\s*$', '') || ',' || regexp_replace(second::text, '^\s*\[', '')
        )::json
    end
$$;

-- Adds many jobs: those without a key in one statement, the others in the order of their keys (so that two bulk calls
-- cannot wait for each other in a circle); of a key given twice the last one counts.
create function slayq._add_jobs_1(specs slayq.job_spec[], job_key_mode text) returns setof slayq.job
language plpgsql volatile rows 100 set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
declare
    spec record;
    added slayq.job;
begin
    perform slayq._check_job_1(s.identifier, s.queue_name, s.run_at, s.max_attempts, s.job_key, s.priority)
    from unnest(specs) as s;
    return query
        insert into slayq.job (queue, state, priority, run_at, max_attempts, serial_queue, event, match_terms, flags, payload)
        select s.identifier, slayq._entry_state_1(s.queue_name, coalesce(s.run_at, now())), coalesce(s.priority, 0),
            coalesce(s.run_at, now()), coalesce(s.max_attempts, q.max_attempts, 25), s.queue_name, facts.event,
            facts.match_terms, s.flags, s.payload
        from unnest(specs) with ordinality as s
        left join slayq.queue q on q.name = s.identifier
        cross join lateral slayq._inspect_payload_1(s.payload) as facts
        where s.job_key is null
        order by s.ordinality
        returning *;
    perform slayq._wake_1(array_remove(
        array(
            select distinct slayq._wake_word_1(s.identifier, slayq._entry_state_1(s.queue_name, s.due), s.due)
            from (select identifier, queue_name, coalesce(run_at, now()) as due from unnest(specs) where job_key is null) as s
        ),
        null
    ));
    for spec in
        select distinct on (s.job_key) s.*
        from unnest(specs) with ordinality as s
        where s.job_key is not null
        order by s.job_key, s.ordinality desc
    loop
        added := slayq._add_job_1(spec.identifier, spec.payload, spec.queue_name, spec.run_at, spec.max_attempts,
            spec.job_key, spec.priority, spec.flags, job_key_mode);
        if added.id is not null then
            return next added;
        end if;
    end loop;
end
$$;
