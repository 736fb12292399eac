-- Sends events for an app; the runs' ids, and which of its own words the caller is to go by.
-- $1 own words text[], $2 how long to wait for a lock, $3 events json (array)
with rules as materialized (
    select set_config('slayq.own_words', $1::text[]::text, true) as own, set_config('lock_timeout', $2, true)
),
call as materialized (
    select array(select slayq._send_many_1($3)) as runs from rules where rules.own is not null
)
select runs, slayq._words_1('slayq.heard') as heard from call
