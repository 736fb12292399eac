-- Parks the job of a key until an event comes; which of its own words the caller is to go by.
-- $1 own words text[], $2 how long to wait for a lock, $3 job key, $4 event, $5 match key,
-- $6 match value, $7 step
with rules as materialized (
    select set_config('slayq.own_words', $1::text[]::text, true), set_config('lock_timeout', $2, true)
),
call as materialized (
    select slayq._wait_for_event_1($3, $4, $5, $6, $7)
    from rules
)
select slayq._words_1('slayq.heard') from call
