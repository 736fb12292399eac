-- Gives back what this worker holds without knowing it: the answer to a lease was lost after it had been committed.
-- $1 worker id, $2 ids it knows of bigint[]. Returns the queues that have something ready again.
with unknown as materialized (
    select j.id, j.superseded or j.cancelled as dropped
    from slayq.job j
    where (select slayq._impatient_1()) and j.state = 'leased' and j.worker_id = $1 and not j.id = any ($2)
    for update skip locked
),
dropped as (
    delete from slayq.job j where j.id = any (array(select id from unknown where unknown.dropped))
),
released as (
    update slayq.job j
    set state = 'ready', worker_id = null, leased_at = null, attempts = greatest(j.attempts - 1, 0), updated_at = now()
    where j.id = any (array(select id from unknown where not unknown.dropped))
    returning j.queue
)
select array(select distinct queue from released)
