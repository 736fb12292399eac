-- The six functions that stock Slay Q apps call (protocol v1, section 3). Their names, argument names, order, defaults and
-- void results are the contract; PostgREST calls them by name. SECURITY DEFINER with a pinned search_path: whoever may
-- execute them needs no right on the tables. Who may execute them: slayq._grant_1, run by every migrate.

create function public.add_worker_job(
    identifier text, payload json default null, queue_name text default null, run_at timestamptz default null,
    max_attempts integer default null, job_key text default null, priority integer default null,
    flags text[] default null, job_key_mode text default 'replace'
) returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform slayq._add_job_1(
        identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, job_key_mode
    );
end
$$;

create function public.wait_for_worker_event(
    _job_key text, _event text, _match_key text, _match_value text, _step_name text, _expires_at timestamptz
) returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    -- _expires_at is the continuation's own run_at, which alone decides when the wait times out.
    perform slayq._wait_for_event_1(_job_key, _event, _match_key, _match_value, _step_name);
end
$$;

create function public.wait_for_invocation(_invoker_job_key text, _target_job_key text, _step_name text)
returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform slayq._wait_for_invocation_1(_invoker_job_key, _target_job_key, _step_name);
end
$$;

create function public.trigger_waiting_workers(_event text, _match_key text, _match_value text)
returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform slayq._trigger_event_1(_event, _match_key, _match_value);
end
$$;

create function public.trigger_waiting_invoker(_job_key text, _result json)
returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform slayq._trigger_invoker_1(_job_key, _result);
end
$$;

create function public.cancel_pending_tasks(event text, matchkey text, matchval text)
returns void language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform slayq._cancel_1(event, matchkey, matchval);
end
$$;

-- Every function and type of ours, for the grants.
create function slayq._api_1() returns setof regprocedure
language sql stable set search_path = pg_catalog, pg_temp as $$
    select p.oid::regprocedure
    from pg_proc p
    where p.pronamespace = 'slayq'::regnamespace
        or (
            p.pronamespace = 'public'::regnamespace and p.prosecdef and p.proname in (
                'add_worker_job', 'wait_for_worker_event', 'wait_for_invocation', 'trigger_waiting_workers',
                'trigger_waiting_invoker', 'cancel_pending_tasks',
                'slayq_register', 'slayq_send', 'slayq_send_many', 'slayq_cancel'
            )
        )
$$;

-- Sets who may do what, whatever the database's default privileges gave away: nobody but the owner executes anything of
-- ours, then `apps` (and service_role, where it exists) may call the API, and `servers` may do all that a daemon does.
-- Roles named once stay granted: they are kept in slayq.grantee.
create function slayq._grant_1(apps text[], servers text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    callable regprocedure;
    grantee text;
    role_name text;
    callers text[];
begin
    insert into slayq.grantee
    select unnest(apps), 'app' union select unnest(servers), 'server'
    on conflict do nothing;
    callers := array(
        select rolname from pg_roles
        where rolname = 'service_role' or rolname in (select g.role_name from slayq.grantee g where g.kind = 'app')
    );
    for callable in select slayq._api_1() loop
        for grantee in
            select case acl.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(acl.grantee)) end
            from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as acl
            where p.oid = callable and acl.grantee <> p.proowner
        loop
            execute format('revoke all on function %s from %s', callable, grantee);
        end loop;
    end loop;
    foreach role_name in array callers loop
        execute format('grant usage on schema slayq to %I', role_name);
        execute format('grant select on slayq.jobs to %I', role_name);
        for callable in
            select f from slayq._api_1() as f
            join pg_proc p on p.oid = f
            where p.pronamespace = 'public'::regnamespace or p.proname !~ '^_'
        loop
            execute format('grant execute on function %s to %I', callable, role_name);
        end loop;
    end loop;
    for role_name in
        select rolname from pg_roles
        where rolname in (select g.role_name from slayq.grantee g where g.kind = 'server')
    loop
        execute format('grant usage on schema slayq to %I', role_name);
        execute format('grant select, insert, update, delete on all tables in schema slayq to %I', role_name);
        -- What the owner goes by, and statements that it will run.
        execute format(
            'revoke insert, update, delete on slayq.migration, slayq.grantee, slayq.replaced_function from %I', role_name
        );
        execute format('grant usage, select on all sequences in schema slayq to %I', role_name);
        for callable in select slayq._api_1() loop
            execute format('grant execute on function %s to %I', callable, role_name);
        end loop;
    end loop;
end
$$;
