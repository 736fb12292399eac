-- What a job waits for.
-- $1 job id
select w.kind, w.step_name, w.event, w.match_key, w.match_value, w.target_key, w.created_at
from slayq.wait w where w.job_id = $1
order by w.id
