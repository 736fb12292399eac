-- Gives serial queues their heads; the queues that have something new to lease.
-- $1 lanes text[]
select array(select distinct name from slayq._advance_lanes_1($1) as name)
