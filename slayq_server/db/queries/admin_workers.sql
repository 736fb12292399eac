-- The worker rows, newest first: one for each daemon process that lives, or has not been gone for long.
-- No parameters.
select w.id, w.name, w.version, w.queues, w.started_at, w.renewed_at, w.expires_at, w.expires_at > now() as live,
    (select count(*) from slayq.job j where j.state = 'leased' and j.worker_id = w.id) as leased
from slayq.worker w
order by w.id desc
