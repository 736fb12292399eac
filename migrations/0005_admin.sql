-- Graphile Worker's functions under schema slayq, and what the command line and the daemons share of them.
-- They act on jobs that nobody is delivering, and return the rows they acted on.

create function slayq._as_jobs_1(job slayq.job) returns slayq.jobs
language sql immutable parallel safe as $$
    select row(
        job.id, job.serial_queue, job.queue, job.priority, job.run_at, job.attempts, job.max_attempts, job.last_error,
        job.created_at, job.updated_at, job.job_key, job.leased_at, job.worker_id::text, job.revision, job.flags,
        job.state, job.event
    )::slayq.jobs
$$;

create function slayq.add_job(
    identifier text, payload json default null, queue_name text default null, run_at timestamptz default null,
    max_attempts integer default null, job_key text default null, priority integer default null,
    flags text[] default null, job_key_mode text default 'replace'
) returns slayq.jobs language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._as_jobs_1(slayq._add_job_1(
        identifier, payload, queue_name, run_at, max_attempts, job_key, priority, flags, job_key_mode
    ))
$$;

create function slayq.add_jobs(specs slayq.job_spec[], job_key_preserve_run_at boolean default false)
returns setof slayq.jobs language sql volatile security definer set search_path = pg_catalog, pg_temp as $$
    select slayq._as_jobs_1(added)
    from slayq._add_jobs_1(specs, case when job_key_preserve_run_at then 'preserve_run_at' else 'replace' end) as added
$$;

-- Removes the job of a key. One that is being delivered finishes, and is never tried again. null if there is none.
create function slayq.remove_job(job_key text) returns slayq.jobs
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    key constant text := remove_job.job_key;
    removed slayq.job;
begin
    loop
        delete from slayq.job where job.job_key = key and state <> 'leased' returning * into removed;
        if found then
            delete from slayq.wait where wait.job_id = removed.id;
            perform slayq._wake_lanes_1();
            return slayq._as_jobs_1(removed);
        end if;
        update slayq.job set job_key = null, superseded = true, updated_at = now()
        where job.job_key = key and state = 'leased' returning * into removed;
        if found then
            return slayq._as_jobs_1(removed);
        end if;
        -- Neither: there is none, or it changed hands between the two statements.
        if not exists (select from slayq.job where job.job_key = key) then
            return null;
        end if;
    end loop;
end
$$;

create function slayq.complete_jobs(job_ids bigint[]) returns setof slayq.jobs
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    ended slayq.job;
begin
    for ended in
        delete from slayq.job where job.id = any (array(
            select j.id from slayq.job j where j.id = any (job_ids) and j.state <> 'leased' order by j.id for update
        )) and job.state <> 'leased' returning *
    loop
        delete from slayq.wait where wait.job_id = ended.id;
        return next slayq._as_jobs_1(ended);
    end loop;
    perform slayq._wake_lanes_1();
end
$$;

create function slayq.permanently_fail_jobs(job_ids bigint[], error_message text default null) returns setof slayq.jobs
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    ended slayq.job;
begin
    for ended in
        delete from slayq.job where job.id = any (array(
            select j.id from slayq.job j where j.id = any (job_ids) and j.state <> 'leased' order by j.id for update
        )) and job.state <> 'leased' returning *
    loop
        ended.last_error := coalesce(error_message, 'Manually marked as failed');
        ended.attempts := ended.max_attempts;
        perform slayq._bury_1(ended, 'failed-by-operator');
        delete from slayq.wait where wait.job_id = ended.id;
        return next slayq._as_jobs_1(ended);
    end loop;
    perform slayq._wake_lanes_1();
end
$$;

-- Writes the dead letter of a job whose row has just been deleted. Of the v1 minute tick only the last one is kept.
create function slayq._bury_1(ended slayq.job, why text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if ended.job_key = 'cron' and ended.event = 'cron' then
        delete from slayq.dead_letter where dead_letter.job_key = 'cron' and dead_letter.event = 'cron';
    end if;
    insert into slayq.dead_letter (id, queue, reason, priority, attempts, max_attempts, job_key, serial_queue, event,
        match_terms, flags, payload, patches, last_error, run_at, created_at, run_id, born, traceparent, lease)
    values (ended.id, ended.queue, why, ended.priority, ended.attempts, ended.max_attempts, ended.job_key,
        ended.serial_queue, ended.event, ended.match_terms, ended.flags, ended.payload, ended.patches, ended.last_error,
        ended.run_at, ended.created_at, ended.run_id, ended.born, ended.traceparent, ended.lease);
end
$$;

-- Puts dead letters back as jobs, due at once, attempts 0, with their finished steps. A letter whose key a live job now
-- has stays where it is. Returns the ids put back.
create function slayq._redrive_1(letter_ids bigint[]) returns setof bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
declare
    letter slayq.dead_letter;
begin
    for letter in
        select * from slayq.dead_letter d where d.id = any (letter_ids) order by d.id for update
    loop
        insert into slayq.job (id, queue, state, priority, run_at, max_attempts, job_key, serial_queue, event,
            match_terms, flags, payload, patches, created_at, run_id, born, traceparent, lease)
        overriding system value
        values (letter.id, letter.queue, slayq._entry_state_1(letter.serial_queue, now()), letter.priority, now(),
            letter.max_attempts, letter.job_key, letter.serial_queue, letter.event, letter.match_terms, letter.flags,
            letter.payload, letter.patches, letter.created_at, letter.run_id, letter.born, letter.traceparent,
            letter.lease)
        on conflict (job_key) where job_key is not null do nothing;
        if found then
            delete from slayq.dead_letter d where d.id = letter.id;
            delete from slayq.step s where s.job_id = letter.id and s.blamed;
            perform slayq._wake_1(array_remove(array[slayq._wake_word_1(
                letter.queue, slayq._entry_state_1(letter.serial_queue, now()), now()
            )], null));
            return next letter.id;
        end if;
    end loop;
end
$$;

-- Changes when and how jobs run next; what is not given stays. A dead letter named here comes back, too.
create function slayq.reschedule_jobs(
    job_ids bigint[], run_at timestamptz default null, priority integer default null, attempts integer default null,
    max_attempts integer default null
) returns setof slayq.jobs
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    new_run_at constant timestamptz := reschedule_jobs.run_at;
    new_priority constant integer := reschedule_jobs.priority;
    new_attempts constant integer := reschedule_jobs.attempts;
    new_max_attempts constant integer := reschedule_jobs.max_attempts;
    changed slayq.job;
begin
    perform slayq._check_job_1('-', null, new_run_at, new_max_attempts, null, new_priority);
    if new_attempts < 0 then
        raise exception 'attempts must be 0 or more, not %', new_attempts using errcode = 'SQ005',
            hint = 'Leave it out to keep the count.';
    end if;
    perform slayq._redrive_1(job_ids);
    for changed in
        update slayq.job set
            run_at = coalesce(new_run_at, job.run_at),
            priority = coalesce(new_priority, job.priority),
            attempts = coalesce(new_attempts, job.attempts),
            max_attempts = coalesce(new_max_attempts, job.max_attempts),
            state = slayq._entry_state_1(job.serial_queue, coalesce(new_run_at, job.run_at)),
            holds = false,
            updated_at = now()
        where job.id = any (array(
            select j.id from slayq.job j where j.id = any (job_ids) and j.state <> 'leased' order by j.id for update
        )) and job.state <> 'leased'
        returning *
    loop
        if changed.run_at <= now() then
            delete from slayq.wait where wait.job_id = changed.id; -- what is due waits for nothing
        end if;
        perform slayq._wake_1(
            array_remove(array[slayq._wake_word_1(changed.queue, changed.state, changed.run_at)], null)
        );
        return next slayq._as_jobs_1(changed);
    end loop;
    perform slayq._wake_lanes_1();
end
$$;

-- What happens to jobs whose worker is no longer alive: back to ready, and to the dead letters if that was the last
-- attempt; superseded and cancelled ones are gone. Finds them by what they are, not by a list, so that nothing that a
-- dying worker leased at the last moment is left behind. Returns one row for each, for the metrics and the lanes.
create function slayq._reap_1(most integer)
returns table (id bigint, queue text, serial_queue text, fate text)
language plpgsql volatile set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
#variable_conflict use_column
declare
    orphan slayq.job;
begin
    perform slayq._impatient_1();
    update slayq.slot set worker_id = null
    where slot.worker_id is not null
        and not exists (select from slayq.worker w where w.id = slot.worker_id and w.expires_at > now());
    for orphan in
        select j.* from slayq.job j
        where j.state = 'leased'
            and not exists (select from slayq.worker w where w.id = j.worker_id and w.expires_at > now())
        order by j.id limit most
        for update skip locked
    loop
        orphan.last_error := format('the lease was lost: worker %s stopped renewing it', orphan.worker_id);
        if orphan.superseded or orphan.cancelled then
            fate := 'dropped';
            delete from slayq.job where job.id = orphan.id;
        elsif orphan.run_id is null and orphan.attempts >= orphan.max_attempts
            or orphan.run_id is not null and orphan.delivery_failures + 1 >= slayq._delivery_budget_1() then
            fate := 'dead';
            delete from slayq.job where job.id = orphan.id;
            perform slayq._bury_1(orphan, 'lease-lost');
        else
            -- Of a run it was a delivery that failed, which its function does not pay for.
            fate := 'ready';
            update slayq.job set state = 'ready', worker_id = null, leased_at = null, last_error = orphan.last_error,
                attempts = case when run_id is null then attempts else greatest(attempts - 1, 0) end,
                delivery_failures = case when run_id is null then 0 else delivery_failures + 1 end,
                updated_at = now()
            where job.id = orphan.id;
        end if;
        id := orphan.id;
        queue := orphan.queue;
        serial_queue := orphan.serial_queue;
        return next;
    end loop;
    delete from slayq.worker w
    where w.expires_at < now() - interval '10 minutes'
        and not exists (select from slayq.job j where j.state = 'leased' and j.worker_id = w.id);
end
$$;

-- Ends the leases of the workers named (by id or by name) and puts their jobs back at once.
create function slayq.force_unlock_workers(worker_ids text[]) returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off set jit = off as $$
begin
    update slayq.worker set expires_at = '-infinity'
    where worker.id::text = any (worker_ids) or worker.name = any (worker_ids);
    perform slayq._wake_1(array(select distinct r.queue from slayq._reap_1(1000000) as r where r.fate = 'ready'));
    perform slayq._wake_lanes_1();
end
$$;
