-- Parks the job of a key until another ends; which of its own words the caller is to go by.
-- $1 own words text[], $2 how long to wait for a lock, $3 the invoker's key, $4 the target's,
-- $5 step
with rules as materialized (
    select set_config('slayq.own_words', $1::text[]::text, true), set_config('lock_timeout', $2, true)
),
call as materialized (
    select slayq._wait_for_invocation_1($3, $4, $5)
    from rules
)
select slayq._words_1('slayq.heard') from call
