-- What is recorded of a run: its outcomes in the order in which they came, then what it waits for.
-- $1 id bigint
select s.name, s.kind, s.state, s.attempts, nullif(s.due_at, 'infinity') as due_at,
    concat_ws(' ', nullif(s.event, ''), s.match_key, s.match_value) as target, s.output, s.error
from slayq.step s where s.job_id = $1
order by s.number nulls last, s.due_at, s.name
