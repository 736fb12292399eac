-- The original's own part of its database, over Graphile Worker's schema: written for the tests from what the contract
-- says of it, as plain as can be.

create schema slayq;

create table slayq._migrations (
    id integer primary key,
    name text not null,
    applied_at timestamptz not null default now()
);
insert into slayq._migrations (id, name) values (1, 'waiting'), (2, 'invoking');

create table slayq._private_waiting_on (
    id bigint generated always as identity primary key,
    job_id bigint not null references graphile_worker._private_jobs (id) on delete cascade,
    event text not null,
    match_key text,
    match_value text,
    step_name text not null,
    expires_at timestamptz
);

create table slayq._private_invoker (
    id bigint generated always as identity primary key,
    invoker_job_key text not null,
    target_job_key text not null,
    step_name text not null
);

-- Defaults that ours do not have, and an overload: neither can be replaced in place.
create function public.add_worker_job(
    identifier text, payload json default '{}', queue_name text default null, run_at timestamptz default null,
    max_attempts integer default 25, job_key text default null, priority integer default 0,
    flags text[] default null, job_key_mode text default 'replace'
) returns void language plpgsql as $$
begin
    perform graphile_worker.add_job(
        identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, coalesce(job_key_mode, 'replace')
    );
end
$$;

create function public.wait_for_worker_event(
    _job_key text, _event text, _match_key text, _match_value text, _step_name text, _expires_at timestamptz default null
) returns void language sql as $$
    insert into slayq._private_waiting_on (job_id, event, match_key, match_value, step_name, expires_at)
    select id, _event, _match_key, _match_value, _step_name, _expires_at
    from graphile_worker._private_jobs where key = _job_key
$$;

create function public.wait_for_invocation(_invoker_job_key text, _target_job_key text, _step_name text)
returns void language sql as $$
    insert into slayq._private_invoker (invoker_job_key, target_job_key, step_name)
    values (_invoker_job_key, _target_job_key, _step_name)
$$;

create function public.trigger_waiting_workers(_event text, _match_key text, _match_value text)
returns void language plpgsql as $$
declare
    waiting record;
begin
    for waiting in
        delete from slayq._private_waiting_on
        where event = _event and match_key = _match_key and match_value = _match_value
        returning *
    loop
        update graphile_worker._private_jobs
        set payload = jsonb_set(payload::jsonb, ('{cache,' || waiting.step_name || '}')::text[], 'true')::json, run_at = now()
        where id = waiting.job_id;
    end loop;
end
$$;

create function public.trigger_waiting_invoker(_job_key text, _result json) returns void language plpgsql as $$
declare
    invoker slayq._private_invoker;
begin
    delete from slayq._private_invoker where target_job_key = _job_key returning * into invoker;
    update graphile_worker._private_jobs
    set payload = jsonb_set(payload::jsonb, ('{cache,' || invoker.step_name || '}')::text[], _result::jsonb)::json,
        run_at = now()
    where key = invoker.invoker_job_key;
end
$$;

create function public.trigger_waiting_invoker(_job_key text, _result jsonb) returns void language sql as $$
    select public.trigger_waiting_invoker(_job_key, _result::json)
$$;

create function public.cancel_pending_tasks(event text, matchkey text, matchval text) returns void language sql as $$
    delete from graphile_worker._private_jobs
    where locked_at is null and payload ->> 'event' = event and payload -> 'data' ->> matchkey = matchval
$$;
