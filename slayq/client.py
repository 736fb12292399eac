"""`SlayQ`: an app's functions, and its way to the server."""

from __future__ import annotations

import os
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from slayq.background import background
from slayq.codec import name_of
from slayq.errors import InvalidDefinition
from slayq.events import Event, ModelT, checked_schema, event_from
from slayq.function import Function, define
from slayq.protocol_v2 import APP_CHARACTERS, FUNCTIONS
from slayq.receiver import Receiver, Reply, SyncLines, SyncReply
from slayq.segment.runner import SDK
from slayq.settings import driver_from, secrets_from, secrets_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self
    from uuid import UUID

    from pydantic import BaseModel

    from slayq.drivers import Driver, OutgoingEvent, Registered
    from slayq.events import DataT, Sendable
    from slayq.step import Step
    from slayq.sync_step import SyncStep

R = TypeVar("R")
D = TypeVar("D")


class Definition(Protocol[D]):
    """Makes a function of what it decorates: an `async def` with a `Step`, or a plain `def` with a `SyncStep`.

    The event's data comes first, and may be left out.
    """

    @overload
    def __call__(self, body: Callable[[D, Step], Awaitable[R]], /) -> Function[D, R]: ...
    @overload
    def __call__(self, body: Callable[[Step], Awaitable[R]], /) -> Function[D, R]: ...
    @overload
    def __call__(self, body: Callable[[D, SyncStep], R], /) -> Function[D, R]: ...
    @overload
    def __call__(self, body: Callable[[SyncStep], R], /) -> Function[D, R]: ...


class SlayQ:
    """An app: what it runs, under which URL, and how it reaches the server.

    One is enough for a process. It may be used from several event loops, and from threads through the methods that end
    in `_sync`.
    """

    def __init__(
        self,
        *,
        app: str | None = None,
        url: str | None = None,
        secret: str | Sequence[str] | None = None,
        driver: Driver | None = None,
        time_multiplier: float = 1.0,
    ) -> None:
        """Connects to nothing yet, and reads the environment when something of it is first needed.

        Args:
            app: under which the server knows these functions; registering replaces all of that name. Without one,
                SLAY_Q_APP, else the URL's host and path.
            url: at which the server reaches this app. Requests that are meant for another are refused.
            secret: to sign with, or several, newest first; else SLAY_Q_SECRET, SLAY_Q_WORKER_SECRET or the lines of
                SLAY_Q_SECRET_FILE. `whsec_…` is base64.
            driver: the way to the server; else by SLAY_Q_DATABASE_URL, SLAY_Q_RPC_URL, or SLAY_Q_SUPABASE_URL with
                SLAY_Q_SUPABASE_KEY.
            time_multiplier: shortens sleeps, time-outs and retries' delays: with 0.001 a day takes 86 s.

        Raises InvalidDefinition and InvalidSecret.
        """
        self.url = _checked_url(url)
        self._app = app
        self._secrets = None if secret is None else secrets_of(secret)
        self._driver = driver
        if isinstance(time_multiplier, bool) or not 0 <= time_multiplier < float("inf"):
            raise InvalidDefinition(f"time_multiplier is {time_multiplier!r}: pass a number from 0 up")
        self.time_multiplier = float(time_multiplier)
        self._functions: dict[str, Function[Any, Any]] = {}
        self.receiver = Receiver(
            self._functions, lambda: self.secrets, url=self.url, time_multiplier=self.time_multiplier
        )
        """What checks and answers requests."""

    # Functions

    @property
    def functions(self) -> Mapping[str, Function[Any, Any]]:
        """The functions by the name of their event, in the order of their definition."""
        return MappingProxyType(self._functions)

    @overload
    def function(
        self,
        *,
        event: Event[DataT],
        name: str | None = None,
        queue: str = "general",
        retries: int = 25,
        priority: int = 0,
        cron: str | None = None,
        cancel_on: Iterable[tuple[Event[Any] | str, str]] = (),
        waits_on: Iterable[tuple[Event[Any] | str, str]] = (),
        invokes: Iterable[Function[Any, Any] | Event[Any] | str] = (),
    ) -> Definition[DataT]: ...
    @overload
    def function(
        self,
        *,
        event: str,
        schema: type[ModelT],
        name: str | None = None,
        queue: str = "general",
        retries: int = 25,
        priority: int = 0,
        cancel_on: Iterable[tuple[Event[Any] | str, str]] = (),
        waits_on: Iterable[tuple[Event[Any] | str, str]] = (),
        invokes: Iterable[Function[Any, Any] | Event[Any] | str] = (),
    ) -> Definition[ModelT]: ...
    @overload
    def function(
        self,
        *,
        event: str,
        name: str | None = None,
        queue: str = "general",
        retries: int = 25,
        priority: int = 0,
        cron: str | None = None,
        cancel_on: Iterable[tuple[Event[Any] | str, str]] = (),
        waits_on: Iterable[tuple[Event[Any] | str, str]] = (),
        invokes: Iterable[Function[Any, Any] | Event[Any] | str] = (),
    ) -> Definition[dict[str, Any]]: ...
    def function(
        self,
        *misuse: Any,
        event: Event[Any] | str | None = None,
        schema: type[BaseModel] | None = None,
        name: str | None = None,
        queue: str = "general",
        retries: int = 25,
        priority: int = 0,
        cron: str | None = None,
        cancel_on: Iterable[tuple[Event[Any] | str, str]] = (),
        waits_on: Iterable[tuple[Event[Any] | str, str]] = (),
        invokes: Iterable[Function[Any, Any] | Event[Any] | str] = (),
    ) -> Any:
        """Define a function: a decorator for an `async def` or a plain `def`.

        Args:
            event: that starts it; no other function of any app has it.
            schema: the pydantic model of the event's data, if `event` is a name. Without one, data is a dict.
            name: for people; without one, that of the function.
            queue: in which its runs stand.
            retries: how often it is tried again after it raised.
            priority: of its runs in the queue; 0 is the highest.
            cron: when it is started by itself, such as "TZ=Asia/Singapore 0 3 * * *". The event has no schema then.
            cancel_on: events that cancel a run, each with the property that its data and the run's have in common.
            waits_on: events that it waits for, likewise.
            invokes: functions that it invokes.

        Raises InvalidDefinition, here or when it decorates.
        """
        started_by = _started_by(misuse, event, schema)

        def decorate(body: Callable[..., Any]) -> Function[Any, Any]:
            made = define(
                body,
                event=started_by,
                name=name,
                queue=queue,
                retries=retries,
                priority=priority,
                cron=cron,
                cancel_on=cancel_on,
                waits_on=waits_on,
                invokes=invokes,
            )
            self._add(made)
            return made

        return decorate

    def _add(self, function: Function[Any, Any]) -> None:
        other = self._functions.get(function.event.name)
        if other is not None:
            raise InvalidDefinition(
                f"the event {function.event.name!r} starts the function {other.name!r} ({_place(other)}), and cannot"
                f" start {function.name!r} ({_place(function)}), too: give one of them another event"
            )
        if len(self._functions) >= FUNCTIONS:
            raise InvalidDefinition(f"an app has at most {FUNCTIONS} functions: divide it into several")
        self._functions[function.event.name] = function

    # Registration

    @property
    def app(self) -> str:
        """Under which the server knows the functions. Raises InvalidDefinition if nothing says."""
        bare = re.sub(r"^[a-z]+://", "", self.url or "").rstrip("/")
        app = self._app or os.environ.get("SLAY_Q_APP") or bare
        if not app:
            raise InvalidDefinition("the app has neither a name nor a URL: pass app= and url= to SlayQ")
        if len(app) > APP_CHARACTERS or "\0" in app:
            raise InvalidDefinition(f"the app's name {app!r:.40} is not 1 to {APP_CHARACTERS} characters: pass app=")
        return app

    @property
    def secrets(self) -> tuple[str, ...]:
        """The signing secrets, newest first. Raises InvalidSecret if there is none."""
        return secrets_from() if self._secrets is None else self._secrets

    @property
    def driver(self) -> Driver:
        """The way to the server. Raises InvalidDefinition if nothing says which."""
        if self._driver is None:
            self._driver = driver_from()
        return self._driver

    def manifest(self) -> dict[str, Any]:
        """All functions, as the server is told of them. Raises InvalidDefinition, and InvalidStep for a bad output."""
        if self.url is None:
            raise InvalidDefinition("the server cannot reach an app without a URL: pass url= to SlayQ")
        functions = [function.manifest() for function in self._functions.values()]
        return {"app": self.app, "url": self.url, "sdk": SDK, "functions": functions}

    async def register(self) -> Registered:
        """Tell the server of the functions; it forgets others of this app. Raises RegistrationFailed, Unavailable …"""
        return await self.driver.register(self.manifest())

    def register_sync(self) -> Registered:
        """`register`, for code that is not async."""
        return background.run(self.register())

    # Sending

    async def send_event(
        self,
        event: Sendable | str,
        data: Mapping[str, Any] | BaseModel | None = None,
        *,
        id: str | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        traceparent: str | None = None,
        conn: Any = None,
    ) -> UUID | None:
        """Send an event: `placed(order)`, `{"event": …, "data": …}`, or a name and its data.

        Args:
            event: what to send.
            data: with a name only, as are `id`, `run_at`, `priority` and `traceparent`; see `Event`.
            conn: a connection or session of the caller's; the event is then sent in its transaction.

        Returns the id of the run; None if no function takes the event, and it only ends waits or cancels.
        Raises UnknownEvent, InvalidEvent, Unavailable and Unauthorized.
        """
        options = {"id": id, "run_at": run_at, "priority": priority, "traceparent": traceparent}
        return (await self._send([event_from(event, data, **options)], conn))[0]

    async def send_events(self, events: Iterable[Sendable], *, conn: Any = None) -> list[UUID | None]:
        """Send several events in one statement, all or none. As `send_event`."""
        return await self._send([event_from(event) for event in events], conn)

    async def _send(self, events: list[OutgoingEvent], conn: Any) -> list[UUID | None]:
        if conn is None:
            return await self.driver.send(events) if events else []
        from slayq.drivers.joining import send_over

        return await send_over(conn, events)

    def send_event_sync(
        self,
        event: Sendable | str,
        data: Mapping[str, Any] | BaseModel | None = None,
        *,
        id: str | None = None,
        run_at: datetime | None = None,
        priority: int | None = None,
        traceparent: str | None = None,
        conn: Any = None,
    ) -> UUID | None:
        """`send_event`, for code that is not async; `conn` is a sync connection."""
        options = {"id": id, "run_at": run_at, "priority": priority, "traceparent": traceparent}
        return self._send_sync([event_from(event, data, **options)], conn)[0]

    def send_events_sync(self, events: Iterable[Sendable], *, conn: Any = None) -> list[UUID | None]:
        """`send_events`, for code that is not async; `conn` is a sync connection."""
        return self._send_sync([event_from(event) for event in events], conn)

    def _send_sync(self, events: list[OutgoingEvent], conn: Any) -> list[UUID | None]:
        if conn is None:
            return background.run(self._send(events, None))
        from slayq.drivers.joining import send_over_sync

        return send_over_sync(conn, events)

    async def cancel(self, run: UUID, *, conn: Any = None) -> bool:
        """Cancel a run, in the caller's transaction with `conn`. False: there is none of that id (any more)."""
        if conn is None:
            return await self.driver.cancel(run)
        from slayq.drivers.joining import cancel_over

        return await cancel_over(conn, run)

    def cancel_sync(self, run: UUID, *, conn: Any = None) -> bool:
        """`cancel`, for code that is not async; `conn` is a sync connection."""
        if conn is None:
            return background.run(self.cancel(run))
        from slayq.drivers.joining import cancel_over_sync

        return cancel_over_sync(conn, run)

    # Receiving

    async def receive(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer what the server posted: `status`, `headers`, and `lines` to be passed on as they come.

        Header names may be in any case; the body is as it came over the wire. What is not good is refused by the reply,
        and runs nothing. Close `lines` (`aclose`) when the caller is gone: that cancels the function.
        """
        return self.receiver.receive(headers, body)

    def receive_sync(self, headers: Mapping[str, str], body: bytes) -> SyncReply:
        """`receive`, for WSGI and the like. Async functions run in a loop in the background, plain ones in threads."""
        reply = self.receiver.receive(headers, body)
        return SyncReply(reply.status, reply.headers, SyncLines(reply.lines))

    # Life

    async def close(self) -> None:
        """Close the driver's connections. They are opened again when they are needed."""
        if self._driver is not None:
            await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _checked_url(url: str | None) -> str | None:
    if url is not None and not re.fullmatch(r"https?://[^\s/]+\S*", url):
        raise InvalidDefinition(f"the app's URL {url!r:.80} is none: write one such as 'https://app.example.com/slayq'")
    return url


def _started_by(misuse: tuple[Any, ...], event: Event[Any] | str | None, schema: type[BaseModel] | None) -> Event[Any]:
    """The event of a function, from what was passed to `SlayQ.function`."""
    if misuse or not event:
        named = f" ({name_of(misuse[0])})" if misuse and callable(misuse[0]) else ""
        raise InvalidDefinition(f"the function{named} has no event: write @sq.function(event='shop/order.placed')")
    if isinstance(event, Event):
        if schema is not None:
            raise InvalidDefinition(f"{event!r} brings its schema along: leave out schema=")
        return event
    made: Event[Any] = Event(event)
    made.schema = checked_schema(schema, f"the event {event!r}")
    return made


def _place(function: Function[Any, Any]) -> str:
    code = getattr(function.body, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else name_of(function.body)
