-- Writes down what apps have said in the segments of their runs, and how those ended that have: one transaction for all.
-- $1 worker id
-- One element per run: $2 ids bigint[]; $3 leases bigint[]; $4 the `seen` it was leased with bigint[]; $5 how its segment
-- ended text[]: null (it goes on), done, suspended, retried, dead, undelivered, released, put_off; $6 json[]: the output
-- (done), or an array of the names of the steps whose failures nobody caught (dead); $7 error text[] (retried, dead,
-- undelivered); $8 seconds to wait double precision[] (retried, undelivered, put_off); $9 reason text[] (dead), or the
-- endpoint that is away (put_off)
-- One element per op, those of a run in order: $10 the run's place in $2, from 1, integer[]; $11 kind text[]: step,
-- step_failed, send, sleep, wait, invoke; $12 step name text[]; $13 value json[] (step: output; step_failed: error; send:
-- events; invoke: data); $14 event text[] (wait, invoke); $15 match key text[], $16 match value text[], as JavaScript
-- prints it (wait); $17 seconds double precision[] (sleep: how long; wait, invoke: time-out or null; step_failed: until it
-- is tried again, or null); $18 timestamptz[] (sleep until); $19 attempts integer[], $20 final boolean[] (step_failed)
-- $21 keep history of done runs boolean
-- $22 own words text[]: words by which the caller goes itself, not to be notified (see slayq._wake_1)
-- A row per run: id; verdict; note; due_in: seconds until it is due again (null: it has ended, or waits without limit);
-- ready: its queue, if it is due at once; heard: which of its own words the caller is to go by (the same in each row).
--   ok       written; the segment goes on          settled  written, and the run has its next state
--   locked   nothing written: somebody has the row, or what a send must lock; give the same again a little later
--   stale    the lease is no longer ours           dropped  cancelled: nothing written; gone, if an end was given
--   refused  `note` says why an op is not possible; those before it are written, it and the end are not
with rules as materialized (
    select set_config('slayq.own_words', $22::text[]::text, true) as own
),
flushed as materialized (
    select f.* from rules, slayq._flush_1(
        $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        $21 and rules.own is not null
    ) as f
)
select id, verdict, note, due_in, ready, slayq._words_1('slayq.heard') as heard from flushed
