-- Pauses queues, or lets them go on; the names of those that were not so already.
-- $1 names text[], $2 paused boolean
insert into slayq.queue (name, paused)
select distinct name, $2::boolean from unnest($1::text[]) as name
on conflict (name) do update set paused = excluded.paused, updated_at = now()
where queue.paused is distinct from excluded.paused
returning name
