-- Whether this session may vacuum the table of jobs.
select pg_catalog.pg_has_role(c.relowner, 'USAGE') from pg_catalog.pg_class c where c.oid = 'slayq.job'::regclass
