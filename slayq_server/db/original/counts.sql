-- What has been taken over now.
select
    count(*) filter (where reason is null and run_at <= now()) as due,
    count(*) filter (where reason is null and run_at > now()) as later,
    count(*) filter (where reason is null and attempts > 0 and not locked) as retrying,
    count(*) filter (where reason is null and locked and run_at > now()) as locked,
    count(*) filter (where reason = 'attempts-exhausted') as failed,
    count(*) filter (where reason = 'lease-lost') as lost,
    count(*) filter (where reason = 'undeliverable') as undeliverable,
    (
        select count(*) from slayq.wait where kind = 'event' and job_id in (select id from pg_temp.slayq_moving)
    ) as waits,
    (
        select count(*) from slayq.wait where kind = 'invocation' and job_id in (select id from pg_temp.slayq_moving)
    ) as invocations
from pg_temp.slayq_moving
