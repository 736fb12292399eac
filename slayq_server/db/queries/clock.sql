-- The database's clock, which alone decides what is due.
select clock_timestamp()
