-- Whether Graphile Worker has jobs that are not taken over yet.
select exists (select from graphile_worker._private_jobs where locked_by is distinct from 'slayq-server')
