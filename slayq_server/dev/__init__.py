"""What `slayq-server dev`, `slayq-server demo` and the tests need: a Postgres server of our own, and an app to call."""
