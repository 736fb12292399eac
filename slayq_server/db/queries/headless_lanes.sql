-- Serial queues in which jobs are blocked behind nothing.
-- $1 how many at the most
select array(select name from slayq._headless_lanes_1($1) as name)
