-- The functions that apps have registered, with what cancels their runs and what those wait for.
select f.event, f.app, f.name, f.url, f.queue, f.max_attempts, f.priority, f.cron, f.invokes,
    array(
        select i.event || ' by ' || i.match_key from slayq.interest i
        where i.function_event = f.event and i.kind = 'cancel' order by 1
    ) as cancel_on,
    array(
        select i.event || ' by ' || i.match_key from slayq.interest i
        where i.function_event = f.event and i.kind = 'wait' order by 1
    ) as waits_on,
    (select count(*) from slayq.job j where j.event = f.event and j.run_id is not null) as runs, a.sdk, a.registered_at
from slayq.function f
join slayq.app a on a.name = f.app
order by f.app, f.event
