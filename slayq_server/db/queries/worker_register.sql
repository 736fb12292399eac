-- A new worker row for this process.
-- $1 name, $2 version, $3 queues text[], $4 lease in seconds (double precision)
insert into slayq.worker (name, version, queues, expires_at)
values ($1, $2, $3, now() + make_interval(secs => $4))
returning id
