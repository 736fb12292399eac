-- One run wherever it is: alive, a dead letter, or in the history of what is done.
-- $1 run id uuid
select j.id, j.run_id, j.event, j.queue, case when j.parked then 'suspended' else j.state end as state, j.attempts,
    j.max_attempts, j.delivery_failures, j.cancelled, j.run_at, j.created_at, null::timestamptz as ended_at,
    j.last_error, w.name as worker, j.payload, null::json as output
from slayq.job j
left join slayq.worker w on w.id = j.worker_id
where j.run_id = $1
union all
select d.id, d.run_id, d.event, d.queue, 'dead: ' || d.reason, d.attempts, d.max_attempts, null, false, d.run_at,
    d.created_at, d.died_at, d.last_error, null, d.payload, null
from slayq.dead_letter d where d.run_id = $1
union all
select d.id, d.run_id, d.event, d.queue, 'done', d.attempts, null, null, false, null, d.created_at, d.done_at, null, null,
    d.payload, d.output
from slayq.done_job d where d.run_id = $1
limit 1
