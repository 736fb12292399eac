"""Carries the faults out, one after another, and logs when each begins and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.chaos.disk import Ballast
from tests.chaos.wire import Manner
from tests.chaos.world import name_of, skew
from tests.support.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.chaos.schedule import Fault
    from tests.chaos.wire import Wire
    from tests.chaos.world import Daemon, World

HOUR = 3600.0
STOPS_WITHIN = 12.0
"""Seconds for a daemon to end after SIGTERM: its grace of 3, what may be left to write down, and a busy machine."""


class Nemesis:
    """Does to a world what a schedule says."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._log = world.faults
        self.done = 0

    async def run(self, faults: Sequence[Fault], began: float) -> None:
        """All faults, each at its time after `began` or when the one before it is over."""
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
            await self.carry_out(fault)

    async def carry_out(self, fault: Fault) -> None:
        """One fault, from its beginning to its end."""
        group, _, _ = fault.kind.partition("_")
        what: Callable[[Fault], Awaitable[None]] = getattr(self, f"_{fault.kind}", None) or getattr(self, f"_{group}")
        self._log("fault_on", kind=fault.kind, fault=fault.as_record())
        try:
            await what(fault)
        except Exception as error:
            self._log("fault_broken", kind=fault.kind, error=repr(error)[:500])
            raise
        finally:
            self._log("fault_off", kind=fault.kind)
            self.done += 1

    # Daemons

    async def _daemon_kill(self, fault: Fault) -> None:
        daemon, program = self._victim(fault)
        program.kill()
        await asyncio.sleep(fault.seconds)
        await self._start_again(daemon)

    async def _daemon_freeze(self, fault: Fault) -> None:
        _, program = self._victim(fault)
        program.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            program.send_signal(signal.SIGCONT)

    async def _daemon_stall(self, fault: Fault) -> None:
        daemon, program = self._victim(fault)
        daemon.control.write(offset=skew(daemon.number), stall=fault.seconds)
        program.send_signal(signal.SIGUSR2)
        await asyncio.sleep(fault.seconds)

    async def _clock_jump(self, fault: Fault) -> None:
        daemon, _ = self._victim(fault)
        ahead = HOUR if fault.draw < 0.5 else -HOUR
        try:
            for offset in (ahead, -ahead):
                daemon.control.write(offset=offset)
                await asyncio.sleep(fault.seconds / 2)
        finally:
            daemon.control.write(offset=skew(daemon.number))

    async def _daemon_term(self, fault: Fault) -> None:
        daemon, program = self._victim(fault)
        name = name_of(daemon)
        self._log("term", daemon=daemon.number, name=name)
        began = time.monotonic()
        program.terminate()
        code = await self._end_of(program)
        async with self._world.connection() as connection:
            held = await connection.fetchval(_HELD, name)
        self._log("term_end", daemon=daemon.number, name=name, code=code, seconds=time.monotonic() - began, held=held)
        await asyncio.sleep(fault.seconds)
        await self._start_again(daemon)

    async def _end_of(self, program: Any) -> int | None:
        try:
            code: int = await program.wait(STOPS_WITHIN)
        except AssertionError:
            return None
        return code

    def _victim(self, fault: Fault) -> tuple[Daemon, Any]:
        daemon = self._world.daemons[fault.target]
        assert daemon.program is not None
        return daemon, daemon.program

    async def _start_again(self, daemon: Daemon) -> None:
        program = self._world.start_daemon(daemon.number)
        await program.wait_until_answers(f"{self._world.rpc_url(daemon)}/readyz", timeout=60)

    # Postgres

    async def _pg_restart(self, fault: Fault) -> None:
        cluster = self._world.cluster
        await asyncio.to_thread(cluster.stop, "immediate")
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(cluster.start)
        await self._log_recovery()

    async def _pg_backend_kill(self, fault: Fault) -> None:
        async with self._world.connection() as connection:
            pids = [row["pid"] for row in await connection.fetch(_CONNECTIONS)]
        if pids:  # none: they are all just being opened
            os.kill(pids[int(fault.draw * len(pids))], signal.SIGKILL)
            await wait_until(self._recovered, 60, "Postgres taking connections again")
            await self._log_recovery()

    async def _recovered(self) -> bool:
        try:
            async with self._world.connection() as connection:
                return bool(await connection.fetchval("select not pg_is_in_recovery()"))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    async def _pg_disk_full(self, fault: Fault) -> None:
        cluster = self._world.cluster
        ballast = Ballast(cluster.data_dir)
        try:
            self._log("disk_full", bytes=await asyncio.to_thread(ballast.fill))
            await asyncio.sleep(fault.seconds)
        finally:
            ballast.drop()
        if not cluster.running:  # it could not even recover: somebody has to start it again
            self._log("postgres_gave_up")
            await asyncio.to_thread(cluster.start)
        # No daemon is ready for some seconds more, on purpose: see `Report.renewal`. Deliveries go on meanwhile.
        await wait_until(self._recovered, 60, "Postgres taking connections again")

    async def _pg_crowded(self, fault: Fault) -> None:
        """Whatever connection is free is taken, and those of the daemons are made free."""
        until = float("inf")
        async with self._world.connection() as connection, AsyncExitStack() as stack:
            taken = 0
            while time.monotonic() < until:
                try:
                    await stack.enter_async_context(self._world.connection())
                    taken += 1
                except asyncpg.TooManyConnectionsError:
                    until = min(until, time.monotonic() + fault.seconds)
                    row = await connection.fetchrow(f"{_CONNECTIONS} limit 1")
                    if row is not None:
                        await connection.execute("select pg_terminate_backend($1, 1000)", row["pid"])
                    else:
                        await asyncio.sleep(0.05)
            self._log("crowded", taken=taken)

    async def _vacuum_held(self, fault: Fault) -> None:
        async with self._world.connection() as connection, connection.transaction(isolation="repeatable_read"):
            await connection.fetchval("select pg_current_xact_id()::text")
            await asyncio.sleep(fault.seconds)

    async def _log_recovery(self) -> None:
        """How long after Postgres takes connections each daemon is ready, and a new job is with the endpoint."""
        began = time.monotonic()
        for daemon in self._world.daemons:
            assert daemon.program is not None
            await daemon.program.wait_until_answers(f"{self._world.rpc_url(daemon)}/readyz", timeout=30)
        self._log("ready_again", seconds=time.monotonic() - began)

    async def _pg_terminate(self, fault: Fault) -> None:
        async with self._world.connection() as connection:
            pids = await connection.fetch(_CONNECTIONS)
            for row in pids:
                await connection.execute("select pg_terminate_backend($1)", row["pid"])
                await asyncio.sleep(0.05)

    async def _pg_readonly(self, fault: Fault) -> None:
        async with self._world.connection() as connection:
            await connection.execute("alter system set default_transaction_read_only = on")
            await connection.execute("select pg_reload_conf()")
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                await connection.execute("set default_transaction_read_only = off")
                await connection.execute("alter system reset default_transaction_read_only")
                await connection.execute("select pg_reload_conf()")

    # Wires

    async def _pg(self, fault: Fault) -> None:
        daemon = self._world.daemons[fault.target]
        await self._break([daemon.wire], fault)

    async def _producer(self, fault: Fault) -> None:
        await self._break([self._world.producer_wire], fault)

    async def _http(self, fault: Fault) -> None:
        await self._break([self._world.endpoint_wire, self._world.app_wire], fault)

    async def _break(self, wires: Sequence[Wire], fault: Fault) -> None:
        _, _, how = fault.kind.partition("_")
        for wire in wires:
            if how == "cut":
                wire.cut()
            else:
                await wire.become(_manner(how, fault))
        await asyncio.sleep(fault.seconds)
        for wire in wires:
            await wire.become(Manner())
            if how == "bytes":
                wire.cut()

    # The app

    async def _app_kill(self, fault: Fault) -> None:
        assert self._world.app is not None
        self._world.app.kill()
        await asyncio.sleep(fault.seconds)
        self._world.start_app()
        await self._world.app.wait_until_answers(f"{self._world.app_url}", 405, timeout=60)


def _manner(how: str, fault: Fault) -> Manner:
    if how == "delay":
        return Manner(delay=0.05 + 0.3 * fault.draw)
    if how == "silence":
        return Manner(silent=True)
    if how == "hold":
        return Manner(hold=fault.seconds)
    if how == "bytes":
        return Manner(limit=int(1 + 3000 * fault.draw))
    if how == "swallow":
        seen = 0

        def swallows(data: bytes) -> bool:
            # Every other piece that ends a transaction: BEGIN, SELECT and so on must get through, now and then.
            nonlocal seen
            seen += 1
            return (b"commit" in data or b"COMMIT" in data or b"E\x00\x00\x00\x09\x00" in data) and seen % 2 == 0

        return Manner(swallows=swallows)
    raise AssertionError(how)


_HELD = """
select count(*) from slayq.job j where j.worker_id in (select id from chaos.worker where name = $1)
"""
_CONNECTIONS = """
select pid from pg_stat_activity
where backend_type = 'client backend' and application_name like 'slayq-server%' and pid <> pg_backend_pid()
"""
