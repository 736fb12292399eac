-- Keeps the memory of triggers bounded by age and by number, a batch at a time.
-- $1 age in seconds, $2 how many may stay, $3 how many go at once
with old as (
    select t.id from slayq.trigger t
    where t.created_at < clock_timestamp() - make_interval(secs => $1)
        or t.id <= (select max(id) from slayq.trigger) - $2
    order by t.id limit $3 for update skip locked
),
gone as (delete from slayq.trigger where id = any (array(select id from old)) returning id)
select count(*)::integer from gone
