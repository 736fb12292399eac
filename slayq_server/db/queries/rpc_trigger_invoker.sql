-- Hands a job's result to all that wait for it; which of its own words the caller is to go by.
-- $1 own words text[], $2 how long to wait for a lock, $3 job key, $4 result json
with rules as materialized (
    select set_config('slayq.own_words', $1::text[]::text, true), set_config('lock_timeout', $2, true)
),
call as materialized (
    select slayq._trigger_invoker_1($3, $4)
    from rules
)
select slayq._words_1('slayq.heard') from call
