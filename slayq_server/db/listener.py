"""LISTEN on one connection of its own, connected again whenever it is lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNEL = "slayq"
_PING_EVERY = 20.0
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_log = structlog.get_logger()


class Listener:
    """Hands each notification's payload to a callback, for as long as `run` runs."""

    def __init__(
        self,
        url: str,
        on_word: Callable[[str], None],
        on_change: Callable[[bool], None],
        *,
        application_name: str = "slayq-server listener",
    ) -> None:
        """Does not connect yet.

        Args:
            url: a direct (or session-pooled) address: LISTEN needs a session.
            on_word: called with each payload: the name of a queue, `@timer` or `@lanes`.
            on_change: called with True after each connect (whoever listens must look once: it may have missed a word)
                and with False when the connection is lost.
            application_name: as Postgres shows it.
        """
        self._url = url
        self._on_word = on_word
        self._on_change = on_change
        self._application_name = application_name
        self._connected = False

    async def run(self) -> None:
        """Listens until cancelled; after a loss it tries again with a growing pause, 5 s at the most."""
        pause = 0.1
        while True:
            try:
                await self._listen_once()
            except (OSError, *_DRIVER_ERRORS) as error:  # TimeoutError is an OSError
                _log.warning("listener_lost", error_type=type(error).__name__, retry_seconds=pause)
            finally:
                if self._connected:
                    self._connected = False
                    pause = 0.1
                self._on_change(False)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)

    async def _listen_once(self) -> None:
        lost = asyncio.Event()
        connection = await asyncpg.connect(
            self._url,
            timeout=10,
            command_timeout=10,
            statement_cache_size=0,
            server_settings={"application_name": self._application_name},
        )
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._heard)
            self._connected = True
            self._on_change(True)
            while not lost.is_set():
                try:
                    async with asyncio.timeout(_PING_EVERY):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("select")  # finds a connection that is half open
            raise ConnectionResetError("the listening connection was closed")
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._on_word(str(payload))
