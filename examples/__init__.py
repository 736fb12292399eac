"""Programs that show how Slay Q is used. Each runs by itself, and in the tests."""
