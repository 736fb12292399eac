"""Who is measured: ours, and the rival in its ways. Every case is written once, for a side."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from bench.rig import daemon, fresh_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

    import psutil

    from bench.rig import Endpoint
    from slayq_server.dev.cluster import Cluster


class Side(ABC):
    """One of those that are measured."""

    name: str
    title: str
    add: ClassVar[str]
    """Adds jobs in bulk: $1 the queue, $2 the url, $3 and $4 their first and last number."""
    add_one: ClassVar[str]
    """Adds one job: $1 the queue, $2 its payload."""
    left: ClassVar[str]
    """Whether there is a job."""
    table: ClassVar[str]
    """Where the jobs are."""

    @abstractmethod
    async def database(self, cluster: Cluster) -> str:
        """A new database with its schema in it; its URL."""

    @abstractmethod
    def running(
        self, url: str, queues: Mapping[str, int], endpoint: Endpoint
    ) -> AbstractAsyncContextManager[psutil.Process]:
        """Its process, which serves queues with so many deliveries at once each. It may not be ready yet."""


class Ours(Side):
    """`slayq-server` with its default settings."""

    name = "ours"
    title = "slayq-server"
    add = """
        select count(*) from slayq.add_jobs(array(
            select row($1, json_build_object('url', $2::text, 'event', 'bench/noop', 'data', json_build_object('n', i)),
                null, null, null, null, null, null)::slayq.job_spec
            from generate_series($3::integer, $4::integer) as i
        ))
    """
    add_one = "select public.add_worker_job($1, $2::json)"
    left = "select exists (select from slayq.job)"
    table = "slayq.job"

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        if processes > 1:
            self.title = f"slayq-server --processes {processes}"

    async def database(self, cluster: Cluster) -> str:
        return await fresh_database(cluster, "bench_ours")

    @contextlib.asynccontextmanager
    async def running(self, url: str, queues: Mapping[str, int], endpoint: Endpoint) -> AsyncIterator[psutil.Process]:
        config = {
            "queues": {name: {"concurrency": concurrency} for name, concurrency in queues.items()},
            "callbacks": {"allow": [endpoint.origin]},
        }
        async with daemon(url, config, self._processes) as started:
            yield started.process
