-- Registers an app's functions; what the app is told, and which of its own words the caller is to go by.
-- $1 own words text[], $2 how long to wait for a lock, $3 manifest json
with rules as materialized (
    select set_config('slayq.own_words', $1::text[]::text, true) as own, set_config('lock_timeout', $2, true)
),
call as materialized (
    select slayq._register_1($3) as result from rules where rules.own is not null
)
select result, slayq._words_1('slayq.heard') as heard from call
