-- Makes jobs that wait for their time due at once; the ids of those that did. Attempts stay as they are. One that waits
-- for an event or an invocation goes on as if the wait had timed out.
-- $1 ids bigint[]
-- Locks job rows in id order (waiting), then their waits.
select r.id
from slayq.reschedule_jobs(
    array(select j.id from slayq.job j where j.id = any ($1) and j.state = 'scheduled'), run_at => now()
) as r
order by r.id
