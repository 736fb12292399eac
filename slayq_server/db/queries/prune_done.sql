-- Removes history past its time, a batch at a time. $1 age in seconds, $2 how many
with old as (
    select id from slayq.done_job where done_at < now() - make_interval(secs => $1)
    order by done_at, id limit $2 for update skip locked
),
gone as (delete from slayq.done_job where id = any (array(select id from old)) returning id)
select count(*)::integer from gone
