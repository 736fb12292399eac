-- Nothing is deleted there. A job that is taken over is locked for good: no old server that is started again runs it, and
-- adding its key there makes a new job.
update graphile_worker._private_jobs as old set locked_by = 'slayq-server', locked_at = 'infinity'
from pg_temp.slayq_moving as moving
where old.id = moving.graphile_id
