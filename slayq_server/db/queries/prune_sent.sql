-- Forgets the ids of sends, a batch at a time: from then on the same id creates another run.
-- $1 age in seconds, $2 how many go at once
with old as (
    select s.id from slayq.sent s
    where s.created_at < statement_timestamp() - make_interval(secs => $1)
    order by s.created_at limit $2 for update skip locked
),
gone as (delete from slayq.sent where id = any (array(select id from old)) returning id)
select count(*)::integer from gone
