-- Renews this worker's row, unless its time is up, and brings along what a daemon wants to know now and then.
-- $1 worker id, $2 lease in seconds, $3 queue names served text[], $4 the endpoints that it finds away json
-- An expired row is never renewed: others may already have taken its jobs.
with renewed as (
    update slayq.worker set renewed_at = now(), queues = $3, circuits = $4, expires_at = now() + make_interval(secs => $2)
    where id = $1 and expires_at > now()
    returning id
)
select
    exists (select from renewed) as held,
    array(
        select s.queue from unnest($3::text[]) as s (queue)
        where exists (select from slayq.job j where j.queue = s.queue and j.state = 'ready')
            and not exists (select from slayq.queue q where q.name = s.queue and q.paused)
    ) as ready,
    (select extract(epoch from min(run_at) - now())::double precision from slayq.job where state = 'scheduled') as due_in,
    (select extract(epoch from min(next_at) - now())::double precision from slayq.schedule where planned) as tick_in,
    exists (
        select from slayq.job j where j.state = 'leased'
            and not exists (select from slayq.worker w where w.id = j.worker_id and w.expires_at > now())
    ) or exists (
        select from slayq.slot s where s.worker_id is not null
            and not exists (select from slayq.worker w where w.id = s.worker_id and w.expires_at > now())
    ) or exists (select from slayq.worker where expires_at < now() - interval '10 minutes') as reapable,
    exists (select from slayq.job where state = 'blocked') as blocked,
    exists (select from slayq.event where not matched) as unmatched,
    exists (select from slayq.schedule where not planned) as unplanned,
    array(select name from slayq.queue where paused) as paused,
    -- Endpoints for which jobs are put off, and which no live worker finds away. What this one says is not in its row yet.
    array(
        select endpoint from slayq._put_off_endpoints_1() as endpoint
        where not exists (
            select from json_array_elements($4::json) as c where c ->> 'endpoint' = endpoint
        ) and not exists (
            select from slayq.worker w cross join lateral json_array_elements(w.circuits) as c
            where w.id <> $1 and w.expires_at > now() and c ->> 'endpoint' = endpoint
        )
    ) as stranded
