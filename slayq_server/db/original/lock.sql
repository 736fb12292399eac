-- Waits for all who are adding, delivering or waking jobs there, and lets nobody begin to.
lock table graphile_worker._private_jobs, slayq._private_waiting_on, slayq._private_invoker in share row exclusive mode
