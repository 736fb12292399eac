-- Wakes the daemons that want these queues.
-- $1 names text[]
select slayq._wake_1($1)
