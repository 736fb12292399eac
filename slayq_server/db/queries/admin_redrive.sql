-- Puts dead letters back as jobs, due at once, attempts 0; the ids of those put back. One whose key a live job now has stays.
-- $1 ids bigint[]
-- Locks dead letters in id order (waiting).
select id from slayq._redrive_1($1) as id order by id
