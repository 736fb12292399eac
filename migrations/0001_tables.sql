-- The tables of Slay Q Server. Everything private lives in schema slayq; the v1 functions that apps call are in public.
--
-- A job's life (column job.state):
--
--     scheduled --due--> ready --lease--> leased --2xx--> row deleted (or moved to done_job where history is kept)
--         ^                ^                |---fail----> scheduled (back-off)
--         |                +-- blocked      +---no retry, attempts used--> row moved to dead_letter
--         +----- added for later, slept, waits
--
-- Invariants, each kept by the statements named:
--   A  A row is leased if and only if worker_id is not null (check constraint).
--   B  lease only rises; every write after a lease names (id, worker_id, lease), so that a late writer changes nothing.
--   C  Of the jobs of one serial queue at most one is a head: ready, leased, or (strict queues) waiting for its retry.
--      Column holds marks it, a unique index enforces it; only functions that hold the lane's advisory lock set it.
--   D  Only what is ready is in the lease index: parked, blocked and dead jobs cost a lease nothing.
--   E  Daemons never wait for a row that somebody else has locked (skip locked everywhere; where Postgres waits in
--      spite of that, not for long: slayq._impatient_1), so that a caller's long transaction holds up its own job alone.

create schema if not exists slayq;

create table slayq.migration (
    number integer primary key,
    name text not null,
    checksum text not null,
    -- A server that knows the migrations up to this one runs on a schema that has this row, too (rolling upgrades).
    compatible_with integer not null,
    server_version text not null,
    applied_at timestamptz not null default now()
);

-- Roles that were granted the SQL API ('app') or all that a daemon does ('server'); slayq._grant_1 applies them.
create table slayq.grantee (
    role_name text not null,
    kind text not null check (kind in ('app', 'server')),
    primary key (role_name, kind)
);

-- One row per daemon process; a new id each start. A job's lease is as good as its worker's expires_at.
create table slayq.worker (
    id bigint generated always as identity primary key,
    name text not null,
    version text not null,
    queues text[] not null,
    -- Queue names (and '@timer') for which a NOTIFY is useful now: this daemon serves them and sits idle.
    wants text[] not null default '{}',
    -- The endpoints that it finds away: [{"endpoint", "since", "failures", "result"}, ...].
    circuits json not null default '[]',
    started_at timestamptz not null default now(),
    renewed_at timestamptz not null default now(),
    expires_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

create table slayq.job (
    id bigint generated always as identity primary key,
    queue text not null,
    state text not null check (state in ('scheduled', 'ready', 'blocked', 'leased')),
    priority integer not null default 0,
    run_at timestamptz not null default now(),
    attempts integer not null default 0,
    max_attempts integer not null default 25,
    lease bigint not null default 0,
    worker_id bigint,
    leased_at timestamptz,
    revision integer not null default 0,
    -- Set while being delivered: superseded by a re-add or removed under its key; cancelled by cancel_pending_tasks.
    -- Either way the delivery's end touches only this row, which is never tried again.
    superseded boolean not null default false,
    cancelled boolean not null default false,
    holds boolean not null default false,
    job_key text,
    serial_queue text,
    event text not null,
    -- Hashes of (event, key, value) for each scalar member of the payload's data: what cancelling looks up. Small ones, so
    -- that the index is bounded: see _match_term_1.
    match_terms bigint[],
    flags text[],
    payload json not null,
    -- [[step name, value], ...]: what events and invocations have added to the payload's cache since it was stored.
    patches json,
    last_error text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- The rest is of runs of durable functions (protocol v2) alone: a job is a run if and only if run_id is set. Its
    -- attempts are those of its function; deliveries that failed are counted apart. See 0008_runs.sql.
    run_id uuid,
    -- Suspended: an outcome of any of its pending steps makes it due. False while it backs off.
    parked boolean not null default false,
    delivery_failures smallint not null default 0,
    -- What was committed when it was created: an event counts for it if it was not.
    born pg_snapshot,
    traceparent text,
    -- Put off, because the endpoint was away, for as long as run_at is put_off_until: whoever sets another time ends that.
    put_off text,
    put_off_until timestamptz,
    constraint leased_by_a_worker check ((state = 'leased') = (worker_id is not null))
) with (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);
alter table slayq.job alter column payload set storage extended;

create index job_ready on slayq.job (queue, priority, run_at, id) where state = 'ready';
-- The queue rides along so that the gauges are counted from the indexes alone.
create index job_scheduled on slayq.job (run_at, id) include (queue) where state = 'scheduled';
create index job_blocked on slayq.job (serial_queue, priority, run_at, id) include (queue) where state = 'blocked';
create index job_leased on slayq.job (worker_id, id) include (queue) where state = 'leased';
create index job_put_off on slayq.job (put_off, priority, id) include (queue)
    where state = 'scheduled' and put_off is not null and run_at = put_off_until;
create unique index job_key on slayq.job (job_key) where job_key is not null;
create unique index job_serial_head on slayq.job (serial_queue) where holds;
create index job_match on slayq.job using gin (match_terms) with (fastupdate = on, gin_pending_list_limit = 64)
    where state <> 'leased';

create table slayq.dead_letter (
    id bigint primary key,
    queue text not null,
    reason text not null,
    priority integer not null,
    attempts integer not null,
    max_attempts integer not null,
    job_key text,
    serial_queue text,
    event text not null,
    match_terms bigint[],
    flags text[],
    payload json not null,
    patches json,
    last_error text,
    run_at timestamptz not null,
    created_at timestamptz not null,
    died_at timestamptz not null default now(),
    run_id uuid,
    born pg_snapshot,
    traceparent text,
    -- Put back, it goes on from there: a lease of before never fits again, nor is a delivery's id given twice.
    lease bigint not null default 0
);
create index dead_letter_died_at on slayq.dead_letter (died_at, id);
create index dead_letter_queue on slayq.dead_letter (queue, id);
create index dead_letter_job_key on slayq.dead_letter (job_key) where job_key is not null;

-- History, written only where retention.done is set.
create table slayq.done_job (
    id bigint primary key,
    queue text not null,
    job_key text,
    event text not null,
    attempts integer not null,
    payload json not null,
    created_at timestamptz not null,
    done_at timestamptz not null default now(),
    run_id uuid,
    output json
) with (autovacuum_vacuum_insert_scale_factor = 0.2);
create index done_job_done_at on slayq.done_job (done_at, id);

-- What the SQL side must know of a queue: written by the daemons at start, the last one to start wins.
create table slayq.queue (
    name text primary key,
    paused boolean not null default false,
    max_attempts integer,
    backoff_base double precision not null default exp(1),
    backoff_factor double precision not null default exp(1),
    backoff_cap integer not null default 10,
    backoff_max double precision,
    backoff_jitter double precision not null default 0.1,
    updated_at timestamptz not null default now()
);

-- One row per slot of a queue whose limit counts for the whole cluster ("scope": "cluster").
create table slayq.slot (
    queue text not null,
    number integer not null,
    worker_id bigint,
    primary key (queue, number)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- A continuation that waits: for an event, or for the end of a job it invoked. Gone as soon as the job is due.
create table slayq.wait (
    id bigint generated always as identity primary key,
    job_id bigint not null,
    kind text not null check (kind in ('event', 'invocation')),
    -- Hash of (event, key, value) or of the invoked job's key; the text columns are compared again after the look-up.
    term bigint not null,
    event text,
    match_key text,
    match_value text,
    target_key text,
    step_name text not null,
    created_at timestamptz not null default now()
);
create index wait_term on slayq.wait (term);
create unique index wait_job_step on slayq.wait (job_id, md5(step_name));

-- Recent triggers, so that one that came between an app's two calls still counts; and the keys of jobs that were cancelled
-- after they had been delivered, whose app may still run. Bounded by age and by number.
create table slayq.trigger (
    id bigint generated always as identity primary key,
    term bigint not null,
    kind text not null check (kind in ('event', 'invocation', 'cancellation')),
    event text,
    match_key text,
    match_value text,
    target_key text,
    result json,
    created_at timestamptz not null default clock_timestamp()
);
create index trigger_term on slayq.trigger (term, created_at);
create index trigger_created_at on slayq.trigger (created_at);

create table slayq.schedule (
    id text primary key,
    cron text not null,
    queue text not null,
    event text not null,
    url text not null,
    data json not null default '{}',
    priority integer not null default 0,
    max_attempts integer,
    job_key text,
    -- 'tick' is the v1 minute tick: at most one job of it exists, and it never becomes a heap of dead letters.
    -- 'function' is a durable function's own, written by slayq.register; any daemon fires it.
    kind text not null default 'config' check (kind in ('config', 'tick', 'function')),
    catch_up text not null default 'last' check (catch_up in ('none', 'last', 'all')),
    catch_up_window interval not null default interval '1 hour',
    next_at timestamptz not null,
    last_at timestamptz,
    seen_at timestamptz not null default now(),
    -- False until a daemon has worked out next_at from a cron text that is new: SQL cannot.
    planned boolean not null default true
) with (fillfactor = 70);
