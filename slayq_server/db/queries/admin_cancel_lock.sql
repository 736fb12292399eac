-- Locks jobs in whatever state they are, so that none changes hands before admin_cancel, in the same transaction, ends it.
-- $1 ids bigint[]
-- Locks job rows in id order (waiting).
select j.id from slayq.job j where j.id = any ($1) order by j.id for update
