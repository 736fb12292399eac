-- Says for which queues a NOTIFY is useful to this worker now.
-- $1 worker id, $2 names text[]
update slayq.worker set wants = $2 where id = $1 and wants is distinct from $2
