"""Postgres: the only part of the server that knows asyncpg and SQL."""
