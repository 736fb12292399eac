-- Ends this worker's leases: at shutdown, and when it can no longer trust itself.
-- $1 worker id
update slayq.worker set expires_at = least(expires_at, now()) - interval '1 microsecond', wants = '{}' where id = $1
