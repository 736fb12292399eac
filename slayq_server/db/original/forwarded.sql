-- Graphile Worker's functions that forwarders take the place of, but for those that are forwarders already.
select
    format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as signature,
    pg_get_functiondef(p.oid) as definition
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
where n.nspname = 'graphile_worker' and p.proname in ('add_job', 'add_jobs', 'remove_job')
    and p.prosrc !~ 'slayq\.(add_job|add_jobs|remove_job)\('
order by p.oid
