-- Pauses queues, or lets them go on; the names of those that were not so already. Daemons that sit idle are woken.
-- $1 names text[], $2 paused boolean
with changed as (
    insert into slayq.queue (name, paused)
    select distinct unnest($1::text[]), $2::boolean
    on conflict (name) do update set paused = excluded.paused, updated_at = now()
    where queue.paused is distinct from excluded.paused
    returning name
),
woken as materialized (
    select slayq._wake_1(array(select name from changed)) where not $2
)
select name from changed where (select count(*) from woken) is not null order by name
