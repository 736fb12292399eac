"""LISTEN on one connection of its own, connected again whenever it is lost.

Whether it hears anything is tried out after each connect: a pooler in transaction mode takes a LISTEN and never says a
word, and so does another database than the one that notifies.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from logging import WARNING
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from slayq_server.errors import DatabaseUnavailable
from slayq_server.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHANNEL = "slayq"
_PING_EVERY = 20.0
_HEARS_WITHIN = 5.0
_KNOCK_AGAIN = 1.0
_ADVICE = (
    "NOTIFY does not get through: the address leads to a pooler in transaction mode, or to another database than "
    "SLAY_Q_DATABASE_URL. Set SLAY_Q_LISTEN_URL to a direct (or session-pooled) address of the same database. "
    "Until then jobs are found at each renewal of the worker row, so they start later."
)
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
        knock: Callable[[str], Awaitable[None]],
        application_name: str = "slayq-server listener",
    ) -> None:
        """Does not connect yet.

        Args:
            url: a direct (or session-pooled) address: LISTEN needs a session.
            on_word: called with each payload: the name of a queue, `@timer`, `@lanes` or `@queues`.
            on_change: called with True once it hears what is notified (whoever listens must look once: it may have
                missed a word) and with False when the connection is lost.
            knock: notifies the channel that it is called with, from a session other than this one.
            application_name: as Postgres shows it.
        """
        self._url = url
        self._on_word = on_word
        self._on_change = on_change
        self._knock = knock
        self._application_name = application_name
        self._hears = False
        self._answers = asyncio.Event()
        """The database has answered somebody since the connection was lost."""
        self._repeats = Repeats()

    def database_answers(self) -> None:
        """Something else got an answer from the database: a pause between two tries ends."""
        self._answers.set()

    async def run(self) -> None:
        """Listens until cancelled; after a loss it tries again with a growing pause, 5 s at the most."""
        pause = 0.1
        while True:
            try:
                await self._listen_once()
            except (OSError, *_DRIVER_ERRORS) as error:  # TimeoutError is an OSError
                kind = type(error).__name__
                self._repeats.log(WARNING, "listener_lost", kind=kind, error_type=kind, retry_seconds=pause)
            finally:
                if self._hears:
                    self._hears = False
                    pause = 0.1
                self._on_change(False)
            self._answers.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._answers.wait()
            pause = min(pause * 2, 5.0)

    async def _listen_once(self) -> None:
        lost = asyncio.Event()
        trial = _Trial(self._knock)
        connection = await asyncpg.connect(
            self._url,
            timeout=10,
            command_timeout=10,
            statement_cache_size=0,
            server_settings={"application_name": self._application_name},
        )
        try:
            connection.add_termination_listener(lambda _: lost.set())
            connection.add_termination_listener(trial.end)
            await connection.add_listener(CHANNEL, self._heard)
            await connection.add_listener(trial.channel, trial.heard)
            while not lost.is_set():
                pause = _PING_EVERY if self._hears else await self._try_out(trial)
                try:
                    async with asyncio.timeout(pause):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("select")  # finds a connection that is half open
            raise ConnectionResetError("the listening connection was closed")
        finally:
            connection.terminate()

    async def _try_out(self, trial: _Trial) -> float:
        """Finds out whether this connection hears; returns the seconds after which to look after it again."""
        heard = await trial.run()
        if heard is None:
            return _KNOCK_AGAIN
        if heard:
            self._hears = True
            self._repeats.recovered("listener_lost", "listener_hears_again")
            self._on_change(True)
        elif trial.failures == 1:
            _log.warning("listener_hears_nothing", advice=_ADVICE)
        return _PING_EVERY

    def _heard(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        self._on_word(str(payload))


class _Trial:
    """Whether one connection hears: on a channel of its own, so that nobody else is disturbed."""

    def __init__(self, knock: Callable[[str], Awaitable[None]]) -> None:
        self.channel = f"{CHANNEL}_{secrets.token_hex(8)}"
        self.failures = 0
        self._knock = knock
        self._was_heard = False
        self._ended = asyncio.Event()

    def heard(self, *_: object) -> None:
        self._was_heard = True
        self._ended.set()

    def end(self, _: object) -> None:
        """The connection is lost: there is nothing more to find out."""
        self._ended.set()

    async def run(self) -> bool | None:
        """Whether a knock is heard within some seconds; None if that cannot be told."""
        try:
            await self._knock(self.channel)
            async with asyncio.timeout(_HEARS_WITHIN):
                await self._ended.wait()
        except DatabaseUnavailable:
            return None
        except TimeoutError:
            self.failures += 1
            return False
        return self._was_heard or None
