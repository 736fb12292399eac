"""How a job becomes the bytes of a callback. Pure: no network, no database, no clock."""
