"""`slayq-server dev`: everything on this machine, so that a first job runs a minute after the installation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slayq_server.db.admin import Admin
from slayq_server.db.admin_rows import NewJob
from slayq_server.dev.customer import CANCELS, PAYS, Customer
from slayq_server.dev.payloads import payload
from slayq_server.dev.processes import run_interruptibly
from slayq_server.dev.stack import Database, Stack, free_port, kept_database, passing_database, shown_url
from slayq_server.errors import SlayQServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from slayq_server.dev.sample_app import Seen
    from slayq_server.dev.stack import Addresses

FOLDER = Path(".slayq")
SERVER_PORT = 8288
APP_PORT = 3000
SAMPLE_KEY = "first-job"
SAMPLE_ATTEMPTS = 3
_SAMPLE_WITHIN = 60.0


def config(app_url: str) -> dict[str, Any]:
    """Of the daemon: retries come quickly, so that one can watch them."""
    backoff = {"base": 1, "factor": 2, "cap": 6, "jitter": 0}
    return {
        "queues": {
            "general": {"concurrency": 10, "backoff": backoff},
            "one-at-a-time": {"concurrency": 1, "backoff": backoff},
        },
        "retention": {"done": "1d"},
    }


@dataclass(frozen=True, slots=True)
class Options:
    """What `slayq-server dev` was asked for."""

    database: str = "auto"
    """embedded, installed, auto, or the URL of a database."""
    port: int | None = None
    """The daemon's; None: 8288, or any free one."""
    app_port: int | None = None
    """The sample app's; None: 3000, or any free one."""
    allow: tuple[str, ...] = ()
    """Origins of other apps that callbacks may reach."""
    ephemeral: bool = False
    """The database is gone at the end."""
    once: bool = False
    """End when the sample job and the first order have."""


def run_dev(options: Options, say: Callable[[str], None]) -> int:
    """Runs until a KeyboardInterrupt (Ctrl-C, SIGTERM), or (once) until the sample job and the first order have
    ended.

    Returns 0 if both succeeded, else 1.
    """
    folder = FOLDER.absolute()
    folder.mkdir(exist_ok=True)
    say(f"Starting {_database_words(options.database)} …")
    with _database(options, folder) as database:
        return run_interruptibly(_run(options, folder, database, say))


def _database_words(kind: str) -> str:
    return "on your database" if "://" in kind else "a Postgres server"


def _database(options: Options, folder: Path) -> contextlib.AbstractContextManager[Database]:
    if "://" in options.database:
        return contextlib.nullcontext(Database(options.database, "yours"))
    if options.ephemeral:
        return passing_database(options.database)
    return kept_database(folder, options.database)


class _Firsts:
    """The first job and the first order, and how they ended."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._job: asyncio.Future[bool] = loop.create_future()
        self._order: asyncio.Future[bool] = loop.create_future()

    def heard(self, seen: Seen) -> None:
        """Takes note of what the sample app tells."""
        if seen.job_key == SAMPLE_KEY and seen.status is not None and not self._job.done():
            if seen.status == 200:
                self._job.set_result(True)
            elif seen.retry >= SAMPLE_ATTEMPTS:
                self._job.set_result(False)
        if seen.job_key == PAYS and seen.status == 200 and not self._order.done():
            self._order.set_result(True)

    async def ended(self) -> bool:
        """Waits for both; whether they ended well. Raises SlayQServerError after a minute."""
        try:
            async with asyncio.timeout(_SAMPLE_WITHIN):
                return all(await asyncio.gather(self._job, self._order))
        except TimeoutError:
            raise SlayQServerError(
                f"the sample job and the first order have not ended within {_SAMPLE_WITHIN:g} s"
            ) from None


async def _run(options: Options, folder: Path, database: Database, say: Callable[[str], None]) -> int:
    secret = _kept_secret(folder)
    firsts = _Firsts()
    customer = Customer(database.url, lambda words: say(f"dev     {words}"))

    def seen(what: Seen) -> None:
        say(f"app     {what.line()}")
        firsts.heard(what)
        customer.heard(what)

    stack = Stack(
        folder,
        database.url,
        config,
        secret=secret,
        server_port=free_port(SERVER_PORT) if options.port is None else options.port,
        app_port=free_port(APP_PORT) if options.app_port is None else options.app_port,
        allow=options.allow,
        on_seen=seen,
        on_log=lambda line: say(f"server  {line}"),
    )
    async with stack.running() as addresses, customer, asyncio.TaskGroup() as group:
        env = _write_env(folder, addresses, secret)
        for line in _introduction(addresses, database, env):
            say(line)
        serving = group.create_task(customer.serve())
        await _send_sample(addresses, say)
        await _place_orders(customer, say)
        if not options.once:
            await serving  # never ends
        good = await firsts.ended()
        serving.cancel()
    return 0 if good else 1


async def _send_sample(addresses: Addresses, say: Callable[[str], None]) -> None:
    job = NewJob(
        queue="general",
        payload=payload("demo/flaky", addresses.app, {"hello": "world"}),
        key=SAMPLE_KEY,
        max_attempts=SAMPLE_ATTEMPTS,
    )
    async with Admin.connect(addresses.database_url) as admin:
        sent = await admin.send(job)
    assert sent is not None
    say(f"dev     sent a first job, demo/flaky (id {sent.id}): it fails twice, is tried again, and succeeds")


async def _place_orders(customer: Customer, say: Callable[[str], None]) -> None:
    for order_id, what in (
        (PAYS, "it fails after step 2, goes on after it, sleeps, waits for its payment, and has an invoice made"),
        (CANCELS, "it is cancelled while it waits for its payment"),
    ):
        run = await customer.place(order_id)
        say(f"dev     placed {order_id}, for a durable function (run {run}): {what}")


def _introduction(addresses: Addresses, database: Database, env: Path) -> list[str]:
    program = program_name()
    return [
        "",
        "Slay Q runs on this machine:",
        f"  server      {addresses.server} (/healthz, /metrics)",
        f"  sample app  {addresses.app}",
        f"  database    {shown_url(addresses.database_url)} ({database.words})",
        "",
        "Send a job from another terminal:",
        f"  . {shlex.quote(str(env))}",
        f"  {program} send demo/success --queue general --url {addresses.app}",
        f"  {program} jobs list",
        "",
        "And look at the durable functions:",
        f"  {program} functions",
        f"  {program} runs list",
        "",
        "Ctrl-C stops all.",
        "",
    ]


def program_name() -> str:
    """How to call this program from another terminal."""
    if shutil.which("slayq-server"):
        return "slayq-server"
    beside = Path(sys.executable).with_name("slayq-server")
    if beside.exists():
        with contextlib.suppress(ValueError):
            beside = beside.relative_to(Path.cwd())
        return shlex.quote(str(beside))
    return f"{shlex.quote(sys.executable)} -m slayq_server"


def _kept_secret(folder: Path) -> str:
    """A secret of this folder's own, made once."""
    path = folder / "secret"
    if not path.exists():
        _write_privately(path, secrets.token_urlsafe(32))
    return path.read_text().strip()


def _write_env(folder: Path, addresses: Addresses, secret: str) -> Path:
    """Writes what another terminal needs; returns the path, as short as it can be said."""
    path = folder / "env"
    values = {"SLAY_Q_DATABASE_URL": addresses.database_url, "SLAY_Q_SECRET": secret}
    _write_privately(path, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()))
    return FOLDER / "env"


def _write_privately(path: Path, text: str) -> None:
    """Writes a file that only this user may read, whole or not at all."""
    staged = path.with_suffix(".new")
    staged.unlink(missing_ok=True)
    with os.fdopen(os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    staged.replace(path)
