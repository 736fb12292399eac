-- Removes dead letters for good; the ids of those removed.
-- $1 ids bigint[]
with doomed as materialized (
    select d.id from slayq.dead_letter d where d.id = any ($1) order by d.id for update
),
gone as (
    delete from slayq.dead_letter d where d.id = any (array(select id from doomed)) returning d.id
)
select id from gone order by id
