-- Seconds until the next scheduled job is due; null where there is none.
select extract(epoch from min(run_at) - clock_timestamp())::double precision from slayq.job where state = 'scheduled'
