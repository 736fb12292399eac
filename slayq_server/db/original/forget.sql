-- Takes out what is to be put back of one schema.
delete from slayq.replaced_function where signature like $1 || '.%' returning definition
