"""One configuration for several processes of one server: each gets its share of every queue's concurrency.

The limit of a queue is that of the server as a whole, however many processes it has. It is divided once and for all,
not counted: each process is dealt a fixed number of slots, which costs nothing per job and cannot be exceeded. Nothing
idles for it, because processes fetch jobs themselves: whoever has a free slot takes the next one. A serial queue (a
limit of 1) belongs to one process, and another one to the next, as cards are dealt.

A share depends on the queue's name, as it was first dealt, and on its limit, and grows with the limit: so no reload
moves a slot from one process to another, which would let both use it for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slayq_server.config.cron import CRON_QUEUE, CRON_TIMEOUT
from slayq_server.config.queue import QueueConfig

if TYPE_CHECKING:
    from slayq_server.config import Config


class Dealer:
    """Divides configurations, one after the other; remembers with which process each queue began."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._first: dict[str, int] = {}
        self._next = 0

    def divide(self, config: Config, *, ticks: bool) -> list[Config]:
        """The configuration of each process: the same, but for the limits and the worker's name.

        `ticks`: there is a minute tick (SLAY_Q_CRON_URL), which has a queue of its own where none is configured.
        """
        queues = dict(config.queues)
        aliases = [alias for queue in queues.values() for alias in queue.alias]
        if ticks and CRON_QUEUE not in [*queues, *aliases]:
            # Each process would make one up for itself.
            queues[CRON_QUEUE] = QueueConfig(concurrency=1, timeout=CRON_TIMEOUT)
        for name, queue in queues.items():
            if name not in self._first:
                self._first[name] = self._next
                self._next = (self._next + self._limit(queue)) % self._processes
        return [self._part(config, queues, place) for place in range(self._processes)]

    def _part(self, config: Config, queues: dict[str, QueueConfig], place: int) -> Config:
        dealt = {}
        for name, queue in queues.items():
            whole, rest = divmod(self._limit(queue), self._processes)
            share = whole + ((place - self._first[name]) % self._processes < rest)
            dealt[name] = queue.model_copy(update={"concurrency": share}) if queue.scope == "daemon" else queue
        worker = config.worker
        if worker.name is not None:
            worker = worker.model_copy(update={"name": f"{worker.name}/{place + 1}"})
        return config.model_copy(update={"queues": dealt, "worker": worker})

    def _limit(self, queue: QueueConfig) -> int:
        """What there is to divide: a limit of the whole cluster is held by slots in the database."""
        return queue.concurrency if queue.scope == "daemon" else 0
