-- Every change of a job's state, lease or holder, written down by the test's database itself.
create schema chaos;
create table chaos.audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    -- Of one transaction's changes, a nested statement's are written down before those of the one around it.
    transaction xid8 not null default pg_current_xact_id(),
    job bigint not null,
    run uuid,
    event text not null,
    tick timestamptz not null,
    job_key text,
    was text,
    became text,
    lease_was bigint,
    lease bigint,
    worker_was bigint,
    worker bigint,
    attempts integer not null,
    max_attempts integer not null
);
create function chaos.note() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into chaos.audit (job, run, event, tick, job_key, became, lease, worker, attempts, max_attempts)
        values (new.id, new.run_id, new.event, new.run_at, new.job_key, new.state, new.lease, new.worker_id,
            new.attempts, new.max_attempts);
    elsif tg_op = 'DELETE' then
        insert into chaos.audit (job, run, event, tick, job_key, was, lease_was, worker_was, attempts, max_attempts)
        values (old.id, old.run_id, old.event, old.run_at, old.job_key, old.state, old.lease, old.worker_id,
            old.attempts, old.max_attempts);
    elsif (old.state, old.lease, old.worker_id) is distinct from (new.state, new.lease, new.worker_id) then
        insert into chaos.audit (job, run, event, tick, job_key, was, became, lease_was, lease, worker_was, worker,
            attempts, max_attempts)
        values (new.id, new.run_id, new.event, new.run_at, new.job_key, old.state, new.state, old.lease, new.lease,
            old.worker_id, new.worker_id, new.attempts, new.max_attempts);
    end if;
    return null;
end
$$;
create trigger audit after insert or update or delete on slayq.job for each row execute function chaos.note();

-- Worker rows do not stay for ever.
create table chaos.worker (id bigint primary key, name text not null);
create function chaos.note_worker() returns trigger language plpgsql as $$
begin
    insert into chaos.worker values (new.id, new.name);
    return null;
end
$$;
create trigger audit after insert on slayq.worker for each row execute function chaos.note_worker();
