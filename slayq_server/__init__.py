"""The Slay Q server: one asyncio daemon between a Postgres database and the apps that own the code."""

from slayq import __version__

__all__ = ["__version__"]
