-- Hands events and the ends of callees to the runs that wait for them.
-- $1 how many events at the most
-- matched: outcomes written; ready: queues that have something new to lease; more: there are further events; left_over:
-- somebody has a run's row locked, so some are to be looked at again a little later.
select matched, ready, more, left_over from slayq._match_1($1)
