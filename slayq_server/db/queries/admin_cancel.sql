-- Removes jobs that nobody delivers, with their waits; marks those being delivered, so that nothing of them comes back.
-- One row for each: its id and what became of it.
-- $1 ids bigint[], locked by admin_cancel_lock
with removed as materialized (
    select r.id from slayq.complete_jobs($1) as r
),
marked as (
    update slayq.job j set cancelled = true, updated_at = now()
    where j.id = any ($1) and j.state = 'leased'
    returning j.id
)
select id, 'removed' as fate from removed
union all
select id, 'marked' from marked
order by id
