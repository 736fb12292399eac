-- Adds one job as the SQL API does; its id, or null.
-- $1 queue, $2 payload json, $3 serial queue, $4 run_at, $5 max_attempts, $6 job_key, $7 priority, $8 flags, $9 mode
select (slayq._add_job_1($1, $2, $3, $4, $5, $6, $7, $8, $9)).id
