-- Adds one job as an app does, with an app's rights; the row, in the words of the view slayq.jobs. A row of nulls where
-- there is none to show.
-- $1 queue, $2 payload json, $3 serial queue, $4 run_at, $5 seconds from now in place of $4, $6 max_attempts, $7 job key,
-- $8 priority, $9 flags text[], $10 mode
select added.id, added.task_identifier as queue, added.state, added.event, added.key as job_key, added.priority,
    added.run_at, added.max_attempts, added.revision
from slayq.add_job(
    $1, $2, $3, coalesce($4, now() + make_interval(secs => $5::double precision)), $6, $7, $8, $9, $10
) as added
