"""Wake, lease a batch, hand out.

One lease statement is on its way at a time; the slots that become free meanwhile make the next batch. A pool is
*hungry* while there may be jobs for it that have not been leased: then every free slot leads to a lease, and a pool
that is quick leases some jobs ahead (see `pools`) and looks from the very beginning now and then only (see `heads`). A
lease that brings fewer jobs than asked for ends that, and from then on a word wakes it: NOTIFY, the timer, an RPC, the
heartbeat.

NOTIFY makes committers queue up behind one lock of the whole cluster, so this daemon asks for it (the worker row's
`wants`) only while it is useful:

- a pool *wants* words once a lease came back short. It leases once more after its wish is written, so that a job
  committed in between is not overlooked, and twice again a little later, for callers whose transactions were open;
- a word for a pool with no free slot was useless: the wish is taken back until the pool runs dry again;
- words that come faster than `_HOT_RATE` mean that committers are paying: the wish is taken back and the pool polls
  every few milliseconds for as long as that finds jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from slayq_server.engine.heads import Head
from slayq_server.errors import DatabaseUnavailable
from slayq_server.model import LeaseRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from slayq_server.clock import Clock
    from slayq_server.engine.pools import Pool, Pools
    from slayq_server.engine.worker import Worker
    from slayq_server.model import LeasedJob, Place

_HOT_RATE = 250.0
"""Words a second for one pool from which polling is cheaper for everybody."""
_HOT_POLL = 0.005
_HOT_LINGER = 0.25
"""Seconds without a job after which a polling pool goes back to words."""
_SECOND_LOOKS = (0.1, 1.0)
"""Seconds after which a pool that has run dry looks again: the caller's transaction may have been open meanwhile."""
_MOST = 1 << 20
"""Jobs that a lease asks for at the most, where none has failed."""
_DOUBTS = (0.0, 1.0, 5.0, 20.0)
"""Seconds after a lease whose answer was lost at which to look for jobs that it may have committed all the same."""
TIMER_WORD = "@timer"
LANES_WORD = "@lanes"
EVENTS_WORD = "@events"
CANCEL_WORD = "@cancel"
SCHEDULES_WORD = "@schedules"
QUEUES_WORD = "@queues"
"""A queue was paused or resumed."""
ENDPOINTS_WORD = "@endpoints"
"""An endpoint that was away answers."""
OTHER_WORDS = frozenset({TIMER_WORD, LANES_WORD, EVENTS_WORD, CANCEL_WORD, SCHEDULES_WORD, QUEUES_WORD, ENDPOINTS_WORD})
"""What is no queue's name, and always wanted."""
_log = structlog.get_logger()


class LeasingStore(Protocol):
    """What leasing asks of the database."""

    async def lease(
        self, worker_id: int, requests: Sequence[LeaseRequest], forbidden_flags: Sequence[str] = ()
    ) -> list[LeasedJob]: ...
    async def release_unknown(self, worker_id: int, known: Sequence[int]) -> tuple[str, ...]: ...
    async def want(self, worker_id: int, words: Iterable[str]) -> None: ...
    async def acquire_slots(self, worker_id: int, queue: str, wanted: int, limit: int) -> int: ...
    async def release_slots(self, worker_id: int, queue: str, number: int) -> None: ...
    async def notify(self, words: Iterable[str]) -> None: ...


@dataclass(slots=True)
class _Appetite:
    """What is known of the jobs that wait for one pool."""

    head: Head = field(default_factory=Head)
    hungry: bool = True
    wants: bool = False
    hot: bool = False
    starved: bool = False
    """Hungry, with all slots of the cluster's limit taken elsewhere: it leases into its own until a word comes."""
    last_found: float = float("-inf")
    look_at: list[float] = field(default_factory=list)
    words: int = 0
    words_since: float = float("-inf")


class Leaser:
    """Leases for all pools of this daemon."""

    def __init__(
        self,
        store: LeasingStore,
        worker: Worker,
        pools: Pools,
        clock: Clock,
        *,
        start: Callable[[LeasedJob, Pool], None],
        held: Callable[[], Sequence[int]],
        on_batch: Callable[[str, float], None],
        on_error: Callable[[DatabaseUnavailable], None],
        forbidden_flags: Sequence[str] = (),
        listens: bool = True,
        poll_every: float | None = None,
    ) -> None:
        """Does nothing yet.

        Args:
            store: the database.
            worker: leases are made under its row while it is trusted.
            pools: whose free slots are filled.
            clock: measures.
            start: called with each leased job and its pool, in the order in which they are to start.
            held: the ids of all jobs in hand, delivered or on their way to be settled.
            on_batch: called with ok, empty or error and the seconds that a lease took.
            on_error: called when the database is away.
            forbidden_flags: jobs with any of these flags are left alone.
            listens: words come by NOTIFY. False behind a transaction pooler.
            poll_every: seconds between polls where nothing listens.
        """
        self._store = store
        self._worker = worker
        self._pools = pools
        self._clock = clock
        self._start = start
        self._held = held
        self._on_batch = on_batch
        self._on_error = on_error
        self.forbidden_flags = forbidden_flags
        self._listens = listens
        self._poll_every = poll_every
        self._next_poll = 0.0
        self._appetites: dict[str, _Appetite] = {}
        self._written_wants: tuple[int, frozenset[str]] | None = None
        """The worker row and what stands in it; None: in doubt."""
        self._doubts: list[float] = []
        self._most = _MOST
        """Jobs that a lease asks for at the most for each pool: fewer after one that failed."""
        self._wake = asyncio.Event()
        self._answers = asyncio.Event()
        """The database has answered since the last lease that failed."""
        self._stopped = False
        self._idle = asyncio.Event()
        self._idle.set()

    # Words from outside

    def word(self, queue: str) -> None:
        """A word came for a queue (NOTIFY): something has become ready."""
        pool = self._pools.get(queue)
        if pool is None:
            return
        appetite = self._appetite(pool)
        now = self._clock.monotonic()
        if now - appetite.words_since > 1.0:
            appetite.words, appetite.words_since = 0, now
        appetite.words += 1
        rate = appetite.words / max(now - appetite.words_since, 0.2)
        full = pool.in_flight >= pool.limit  # slots reserved for a lease on its way may yet be free
        if appetite.wants and (full or rate > _HOT_RATE):
            appetite.wants = False
            appetite.hot = not full
            appetite.last_found = now
        appetite.hungry, appetite.starved = True, False
        appetite.head.hurry()
        self._wake.set()

    def ready(self, queues: Iterable[str]) -> None:
        """Something has become ready in these queues: the timer, a settled head, an RPC or the heartbeat says so."""
        for queue in queues:
            pool = self._pools.get(queue)
            if pool is not None:
                appetite = self._appetite(pool)
                appetite.hungry = True
                appetite.head.hurry()
                self._wake.set()

    def look_everywhere(self) -> None:
        """Words may have been missed: a new worker row, a listener that is back, a reload."""
        self._written_wants = None
        for pool in self._pools:
            appetite = self._appetite(pool)
            appetite.hungry, appetite.starved, appetite.wants, appetite.hot = True, False, False, False
            appetite.head.forget()
        self._wake.set()

    def listening(self, connected: bool) -> None:
        """The listener has connected, or lost its connection."""
        if connected:
            self.look_everywhere()

    def database_answers(self) -> None:
        """Something else got an answer from the database: a pause after a failed lease ends."""
        self._answers.set()

    def slot_freed(self, pool: Pool) -> None:
        """A delivery ended."""
        if pool.slots or (self._appetite(pool).hungry and pool.wanted > 0):
            self._wake.set()

    async def stop(self) -> None:
        """Leases nothing more; returns when a lease that was on its way has been handed out."""
        self._stopped = True
        self._wake.set()
        await self._idle.wait()

    # The loop

    async def run(self) -> None:
        """Leases until stopped."""
        pause = 0.0
        while not self._halted():
            await self._until_useful()
            if pause:
                await self._until_answers(pause)
            if self._halted() or not self._worker.trusted:
                continue
            self._idle.clear()
            try:
                await self._lease_once()
                pause = 0.0
            except DatabaseUnavailable as error:
                self._on_error(error)
                self._answers.clear()
                pause = min(max(pause * 2, 0.1), 2.0)
            finally:
                self._idle.set()

    async def _until_answers(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._answers.wait()

    def _halted(self) -> bool:
        return self._stopped

    def _appetite(self, pool: Pool) -> _Appetite:
        appetite = self._appetites.get(pool.name)
        if appetite is None:
            appetite = self._appetites[pool.name] = _Appetite()
        return appetite

    async def _until_useful(self) -> None:
        """Waits until some pool is hungry and has room (or must give slots back), on a worker row that is trusted."""
        while not self._halted():
            self._wake.clear()
            now = self._clock.monotonic()
            next_look = self._look_round(now)
            if self._worker.trusted and (
                any(self._can_lease(pool) for pool in self._pools)
                or any(self._idle_slots(pool) for pool in self._pools.all)
                or (self._worker.id, self._wanted_words()) != self._written_wants
                or (self._doubts and self._doubts[0] <= now)
            ):
                return
            try:
                async with asyncio.timeout(None if next_look is None else max(0.0, next_look - now)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _can_lease(self, pool: Pool) -> bool:
        appetite = self._appetite(pool)
        if pool.paused or not appetite.hungry:
            return False
        return pool.wanted > 0 or (pool.cluster and pool.room > 0 and not appetite.starved)

    def _idle_slots(self, pool: Pool) -> int:
        """Slots of the cluster's limit that this daemon has no use for now."""
        if pool.cluster and pool.limit > 0 and self._appetite(pool).hungry and not pool.paused:
            return 0
        return max(0, pool.slots - pool.in_flight - pool.reserved)

    def _look_round(self, now: float) -> float | None:
        """Makes pools hungry whose time to look again has come; returns when the next one's comes."""
        times = self._doubts[:1] if self._worker.trusted else []
        if self._poll_every is not None:
            if self._next_poll <= now:
                self._next_poll = now + self._poll_every
                for pool in self._pools:
                    appetite = self._appetite(pool)
                    appetite.hungry, appetite.starved = True, False
            times.append(self._next_poll)
        for pool in self._pools:
            appetite = self._appetite(pool)
            while appetite.look_at and appetite.look_at[0] <= now:
                appetite.look_at.pop(0)
                appetite.hungry, appetite.starved = True, False
            times += appetite.look_at[:1]
        return min(times, default=None)

    async def _lease_once(self) -> None:
        worker_id = self._worker.id
        if worker_id is None:
            return
        await self._resolve_doubts(worker_id)
        await self._balance_slots(worker_id)
        asked = [pool for pool in self._pools if pool.wanted > 0 and self._appetite(pool).hungry]
        if asked and self._worker.id == worker_id:
            await self._lease_for(asked, worker_id)
        if self._worker.id == worker_id:
            await self._write_wants(worker_id)

    async def _lease_for(self, asked: Sequence[Pool], worker_id: int) -> None:
        started = self._clock.monotonic()
        requests = {pool: request for pool in asked if (request := self._request(pool, started)).most}
        if not requests:
            return
        # Answers are understood as they were asked for: a reload may have taken a queue away meanwhile.
        by_queue = {name: pool for pool in requests for name in pool.names}
        wanted = {pool.name: self._is_wanted(pool, worker_id) for pool in requests}
        # A word that comes while the statement runs makes its pool hungry again.
        for pool, request in requests.items():
            pool.reserved = request.free
            self._appetite(pool).hungry = False
        jobs: list[LeasedJob] = []
        try:
            jobs = await self._store.lease(worker_id, list(requests.values()), self.forbidden_flags)
        except DatabaseUnavailable:
            now = self._clock.monotonic()
            for pool, request in requests.items():
                self._appetite(pool).hungry = True
                if request.start is None:
                    self._appetite(pool).head.failed(now)
            # What is leased may be large: was it too much for the time that a statement may take?
            self._most = max(1, max(request.most for request in requests.values()) // 4)
            self._on_batch("error", now - started)
            self._doubts = [now + seconds for seconds in _DOUBTS]
            raise
        finally:
            for pool in requests:
                pool.reserved = 0
        self._most = min(self._most * 2, _MOST)
        took = self._clock.monotonic() - started
        self._on_batch("ok" if jobs else "empty", took)
        if self._worker.id != worker_id or not self._worker.trusted:
            # The answer came too late: the row's time is up, and the jobs go back when it is reaped.
            _log.warning("lease_came_too_late", worker=worker_id, jobs=len(jobs))
            return
        got = dict.fromkeys(wanted, 0)
        last: dict[str, Place] = {}
        for job in jobs:
            pool = by_queue[job.queue]
            got[pool.name] += 1
            if job.place is not None:
                last[pool.name] = job.place  # of several names the last: the jobs of all come in one order
            self._start(job, pool)
        any_whole = any(request.start is None for request in requests.values())
        for pool, request in requests.items():
            beside = any_whole and request.start is not None
            self._look_on(pool, got[pool.name], request, last.get(pool.name), None if beside else took)
            self._learn(pool, got[pool.name], request, wanted=wanted[pool.name])

    def _request(self, pool: Pool, now: float) -> LeaseRequest:
        free = min(pool.free, self._most)
        ahead = min(pool.wanted_ahead, self._most - free)
        # Where deliveries are slow, a lease more or less does not matter, and to be passed over costs a job much.
        return LeaseRequest(pool.names, free, ahead, self._appetite(pool).head.at(now) if pool.quick else None)

    def _look_on(self, pool: Pool, got: int, request: LeaseRequest, last: Place | None, took: float | None) -> None:
        """Where the pool's next lease is to begin. One job at a time is in order: a pool of one begins at the first.

        `took`: seconds; None: not known, because another pool's part of the statement began at the beginning.
        """
        head = self._appetite(pool).head
        if pool.limit < 2 or got < request.free:
            head.forget()
        elif took is not None and last is not None and (request.free or got == request.most):
            # Else there may have been none but last attempts, which are not leased ahead.
            head.found(last, whole=request.start is None, now=self._clock.monotonic(), seconds=took)

    async def _resolve_doubts(self, worker_id: int) -> None:
        """After a lease whose answer was lost: what it committed, then or a little later, is held by us unknowingly."""
        now = self._clock.monotonic()
        if not self._doubts or self._doubts[0] > now:
            return
        self.ready(await self._store.release_unknown(worker_id, self._held()))
        self._doubts = [at for at in self._doubts if at > now]

    def _learn(self, pool: Pool, got: int, request: LeaseRequest, *, wanted: bool) -> None:
        """Draws the conclusion from one lease. `wanted`: the wish for words stood in the row before it was sent."""
        appetite = self._appetite(pool)
        now = self._clock.monotonic()
        if got:
            appetite.last_found = now
        if request.start is not None and got < request.free:
            appetite.hungry = True  # there may be more before where it began
            return
        if got >= request.free and request.most:
            # Whether there is more where nothing came ahead, a lease for a free slot will tell.
            if got < request.most:
                pool.rate = 0.0
            appetite.hungry = True
            return
        if appetite.hot:
            if now - appetite.last_found < _HOT_LINGER:
                appetite.look_at = [now + _HOT_POLL]
                return
            appetite.hot = False
        if self._listens and not wanted:
            appetite.wants = True
            appetite.hungry = True  # once more, after the wish is written
            appetite.look_at = [now + seconds for seconds in _SECOND_LOOKS]

    def _wanted_words(self) -> frozenset[str]:
        if not self._listens:
            return frozenset()
        wanting = [pool.names for pool in self._pools if self._appetite(pool).wants]
        # Mostly nothing is, while there is much to do: then this is the very same set each time.
        return OTHER_WORDS.union(*wanting) if wanting else OTHER_WORDS

    def _is_wanted(self, pool: Pool, worker_id: int) -> bool:
        written = self._written_wants
        return (
            self._appetite(pool).wants and written is not None and written[0] == worker_id and pool.name in written[1]
        )

    async def _write_wants(self, worker_id: int) -> None:
        words = self._wanted_words()
        if (worker_id, words) != self._written_wants:
            self._written_wants = None  # until the answer is there
            await self._store.want(worker_id, words)
            self._written_wants = worker_id, words

    async def _balance_slots(self, worker_id: int) -> None:
        """Takes slots of the cluster's limits for hungry pools, and gives back those that stand idle."""
        for pool in self._pools.all:
            idle = self._idle_slots(pool)
            if idle:
                # Counted as given back before it is: if the answer is lost, fewer run, never more.
                pool.slots -= idle
                await self._store.release_slots(worker_id, pool.name, idle)
                await self._store.notify(pool.names)
            elif pool.cluster and self._can_lease(pool) and not self._appetite(pool).starved:
                await self._acquire_slots(pool, worker_id)

    async def _acquire_slots(self, pool: Pool, worker_id: int) -> None:
        limit = pool.limit
        if pool.slots >= limit:
            return
        held = await self._store.acquire_slots(worker_id, pool.name, limit, limit)
        if self._worker.id != worker_id or pool.limit != limit or not pool.cluster:
            return  # what another row held, or held under another limit, is not ours to fill
        pool.slots = held
        if pool.free == 0:
            # All slots are taken elsewhere. Whoever gives one back says a word.
            appetite = self._appetite(pool)
            appetite.starved, appetite.wants = True, self._listens
            appetite.look_at = [self._clock.monotonic() + 1.0]
