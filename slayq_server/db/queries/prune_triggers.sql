-- Keeps the memory of triggers bounded by age and by number, a batch of each at a time.
-- $1 age in seconds, $2 how many may stay, $3 how many go at once
with by_age as (
    select t.id from slayq.trigger t
    where t.created_at < statement_timestamp() - make_interval(secs => $1)
    order by t.created_at limit $3 for update skip locked
),
by_number as (
    select t.id from slayq.trigger t
    where t.id <= (select max(id) from slayq.trigger) - $2
    order by t.id limit $3 for update skip locked
),
gone as (
    delete from slayq.trigger
    where id = any (array(select id from by_age union select id from by_number))
    returning id
)
select count(*)::integer from gone
