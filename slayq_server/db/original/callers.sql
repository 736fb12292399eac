-- Transactions that may still add jobs to the original, though its functions are replaced: a call that had looked its
-- function up before goes on with that one, waits for our lock if need be, and is seen once its transaction has ended.
-- One that is idle calls what is there now, so it counts only for what it has locked in the old tables.
select locks.pid, locks.virtualtransaction as transaction
from pg_locks as locks
join pg_stat_activity as session on session.pid = locks.pid
where locks.locktype = 'virtualxid' and locks.mode = 'ExclusiveLock' and locks.granted
    and session.datname = current_database() and session.pid <> pg_backend_pid()
    and session.backend_type is distinct from 'autovacuum worker'
    -- Other roles' state is shown only to members of pg_read_all_stats.
    and (coalesce(session.state not like 'idle in transaction%', true) or exists (
        select from pg_locks as old
        where old.pid = locks.pid and old.locktype = 'relation'
            and old.database = (select oid from pg_database where datname = current_database())
            and old.relation = any (array[
                to_regclass('graphile_worker._private_jobs'), to_regclass('slayq._private_waiting_on'),
                to_regclass('slayq._private_invoker')
            ])
    ))
order by locks.pid
