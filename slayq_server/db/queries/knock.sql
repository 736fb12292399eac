-- Says nothing on a channel that one listener has to itself: whether it hears that tells it whether it hears at all.
-- $1 channel text
select pg_notify($1, '')
