-- Adds one job for an app; which of its own words the caller is to go by.
-- $1 own words text[], $2 how long to wait for a lock, $3 queue, $4 payload json, $5 serial queue, $6 run_at,
-- $7 max_attempts, $8 job_key, $9 priority, $10 flags, $11 mode
with rules as materialized (
    select set_config('slayq.own_words', $1::text[]::text, true), set_config('lock_timeout', $2, true)
),
call as materialized (
    select slayq._add_job_1($3, $4, $5, $6, $7, $8, $9, $10, $11)
    from rules
)
select slayq._words_1('slayq.heard') from call
