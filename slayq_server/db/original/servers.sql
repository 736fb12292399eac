-- Sessions of old servers. Each of Graphile Worker's runners keeps one for LISTEN alone, so that this stays the last thing
-- it said; Postgres shows it to roles that may see the other role's statements (pg_read_all_stats).
select
    pid, usename as role, coalesce(host(client_addr), 'this machine') as address, application_name as application
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and query ilike 'listen "jobs:insert"%'
order by pid
