-- Takes the jobs of dead workers back.
-- $1 how many at the most
select id, queue, serial_queue, fate from slayq._reap_1($1)
