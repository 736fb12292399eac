-- Which of the original's tables this database has. Reads the catalogue alone: a role without rights may ask, too.
select n.nspname || '.' || c.relname as name
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where (n.nspname, c.relname) in (
    ('slayq', '_private_waiting_on'), ('slayq', '_private_invoker'), ('graphile_worker', '_private_jobs')
)
