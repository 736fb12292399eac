-- When the schedules of this server fire next and have fired last; those without a next tick are left out.
-- $1 ids text[]
select id, next_at, last_at, extract(epoch from next_at - clock_timestamp())::double precision as due_in
from slayq.schedule where id = any ($1) and isfinite(next_at)
