-- A key that was given again to Graphile Worker after the first take-over: the later job counts, as in a replacing add.
select slayq.remove_job(moving.job_key)
from pg_temp.slayq_moving as moving
where moving.reason is null and exists (select from slayq.job where job.job_key = moving.job_key)
