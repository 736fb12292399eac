-- Wakes every job that waits for an event and value; which of its own words the caller is to go by.
-- $1 own words text[], $2 how long to wait for a lock, $3 event, $4 match key,
-- $5 match value
with rules as materialized (
    select set_config('slayq.own_words', $1::text[]::text, true), set_config('lock_timeout', $2, true)
),
call as materialized (
    select slayq._trigger_event_1($3, $4, $5)
    from rules
)
select slayq._words_1('slayq.heard') from call
