-- The original's public functions that are there now: all of the six names (however many arguments) whose body does not
-- call ours.
select
    format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as signature,
    pg_get_functiondef(p.oid) as definition
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
where n.nspname = 'public' and p.prokind in ('f', 'p')
    and p.proname in (
        'add_worker_job', 'wait_for_worker_event', 'wait_for_invocation', 'trigger_waiting_workers',
        'trigger_waiting_invoker', 'cancel_pending_tasks'
    )
    and p.prosrc !~ 'slayq\._[a-z_]+_[0-9]+\('
    and exists (select from pg_class c where c.relname = '_migrations' and c.relnamespace = to_regnamespace('slayq'))
order by p.oid
