-- The slots of a queue whose limit counts for the whole cluster.
-- $1 queue, $2 how many
insert into slayq.slot (queue, number) select $1, generate_series(1, $2::integer) on conflict do nothing
