-- Cancels a run; false if there is none.
-- $1 run id uuid
select slayq._cancel_run_1($1)
