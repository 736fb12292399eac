-- Gives slots of a queue back; those of a lowered limit first.
-- $1 worker id, $2 queue, $3 how many
update slayq.slot s set worker_id = null
where s.queue = $2 and s.number = any (array(
    select mine.number from slayq.slot mine
    where mine.queue = $2 and mine.worker_id = $1 order by mine.number desc limit $3
    for update
))
