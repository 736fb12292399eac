-- Tells the database what it must know of the queues of this server's configuration. The last to start wins.
-- One element per queue name: $1 name text[], $2 max_attempts integer[], $3 base, $4 factor double precision[],
-- $5 cap integer[], $6 max, $7 jitter double precision[], $8 paused by configuration boolean[]
insert into slayq.queue (name, max_attempts, backoff_base, backoff_factor, backoff_cap, backoff_max, backoff_jitter, paused)
select * from unnest($1::text[], $2::integer[], $3::double precision[], $4::double precision[], $5::integer[],
    $6::double precision[], $7::double precision[], $8::boolean[])
on conflict (name) do update set
    max_attempts = excluded.max_attempts, backoff_base = excluded.backoff_base, backoff_factor = excluded.backoff_factor,
    backoff_cap = excluded.backoff_cap, backoff_max = excluded.backoff_max, backoff_jitter = excluded.backoff_jitter,
    paused = queue.paused or excluded.paused, updated_at = now()
