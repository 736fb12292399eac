-- The runs that this worker delivers although they have been cancelled: their connections are to be closed.
-- $1 worker id
select j.id, j.lease from slayq.job j
where j.state = 'leased' and j.worker_id = $1 and j.cancelled and j.run_id is not null
