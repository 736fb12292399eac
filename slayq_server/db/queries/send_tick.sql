-- Creates the run of one tick of a function's schedule.
-- $1 event, $2 run_at
select slayq._send_1($1, '{}', null, $2, null, null)
