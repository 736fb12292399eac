-- Hands events and the ends of callees to the runs that wait for them.
-- $1 how many events at the most, $2 the event after which to go on; 0 at the beginning of a round
-- matched: outcomes written; ready: queues that have something new to lease; more: there are further events, after `last`;
-- left_over: somebody has a run's row locked, so some are to be looked at again a little later, in another round.
select matched, ready, more, left_over, last from slayq._match_1($1, $2)
