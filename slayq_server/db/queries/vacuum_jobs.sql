-- Makes room in the table of jobs where dead rows were, unless somebody is at it. It gives none back to the operating
-- system: that would lock out everybody else.
vacuum (skip_locked, truncate off) slayq.job
