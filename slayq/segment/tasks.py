"""The tasks of a run: which they are, and whether any of them can go on without a step's outcome.

A function may start tasks as it likes. They are known by their context: `Family.entered` marks it, tasks inherit it,
and a step's body leaves it (what a body starts is the body's own). To see them made, a loop has a task factory of ours
for as long as it runs segments; it makes tasks as the loop would without it.

Whom a task waits for is read from its chain of coroutines, and from what the task itself waits for. Where that says
nothing, as for a future that some protocol will set, the task counts as waiting for the world outside. An error here
costs no more than the grace that such a task is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Task = asyncio.Task[Any]


class Family:
    """The tasks of one segment of a run."""

    def __init__(self) -> None:
        self._members: set[Task] = set()

    def add(self, task: Task) -> None:
        """Take in a task that was made for the run."""
        self._members.add(task)

    def alive(self) -> set[Task]:
        """Those that have not ended."""
        self._members = {task for task in self._members if not task.done()}
        return set(self._members)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within it, tasks are made for the run."""
        token = _family.set(self)
        try:
            yield
        finally:
            _family.reset(token)

    @contextlib.contextmanager
    def in_body(self, step: str) -> Iterator[None]:
        """Round the body of a step: tasks made in it are not the run's."""
        tokens = _family.set(None), _body.set((self, step))
        try:
            yield
        finally:
            _family.reset(tokens[0])
            _body.reset(tokens[1])

    def body(self) -> str | None:
        """The step of the run in whose body this is called; None outside of one."""
        inside = _body.get()
        return inside[1] if inside is not None and inside[0] is self else None


_family: ContextVar[Family | None] = ContextVar("slayq_family", default=None)
_body: ContextVar[tuple[Family, str] | None] = ContextVar("slayq_body", default=None)


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    return asyncio.Task(coro, loop=loop, **options)


class _Factory:
    """Makes a loop's tasks, and tells families of theirs."""

    def __init__(self, before: Any) -> None:
        self.before = before
        self.users = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        make = self.before or _make_task
        task = make(loop, coro, **options)
        context: Context | None = options.get("context")
        family = _family.get() if context is None else context.get(_family)
        if family is not None:
            family.add(task)
        return task


_factories: WeakKeyDictionary[asyncio.AbstractEventLoop, _Factory] = WeakKeyDictionary()


@contextlib.contextmanager
def tracking(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Within it, the loop's tasks are told to their families. Then the loop is as before, unless others changed it."""
    factory = _factory_of(loop)
    factory.users += 1
    try:
        yield
    finally:
        factory.users -= 1
        if not factory.users and loop.get_task_factory() is factory:
            loop.set_task_factory(factory.before)
            del _factories[loop]


def _factory_of(loop: asyncio.AbstractEventLoop) -> _Factory:
    current: object = loop.get_task_factory()
    if isinstance(current, _Factory) and current is _factories.get(loop):
        return current
    made = _factories[loop] = _Factory(current)
    loop.set_task_factory(made)
    return made


class Waiting(Enum):
    """What a task waits for."""

    NOTHING = "nothing: it will run in a moment"
    STEP = "a step's outcome"
    TASKS = "other tasks of the run"
    OUTSIDE = "the world outside"


@dataclass(slots=True)
class Survey:
    """What the tasks of a run wait for."""

    tasks: frozenset[Task]
    moving: bool = False
    outside: list[Task] = field(default_factory=list)


def survey(tasks: set[Task], in_step: Callable[[Task], bool]) -> Survey:
    """Sort the tasks of a run; `in_step` says which of them wait for a step's outcome."""
    found = Survey(frozenset(tasks))
    for task in tasks:
        match _waiting(task, tasks, in_step):
            case Waiting.NOTHING:
                found.moving = True
            case Waiting.OUTSIDE:
                found.outside.append(task)
            case _:
                pass
    return found


def _waiting(task: Task, tasks: set[Task], in_step: Callable[[Task], bool]) -> Waiting:
    waiter = getattr(task, "_fut_waiter", None)
    if waiter is None or waiter.done():
        return Waiting.NOTHING
    if in_step(task):
        return Waiting.STEP
    if _only_for(waiter, tasks) or any(_waits_for_tasks(link) for link in _chain(task)):
        return Waiting.TASKS
    return Waiting.OUTSIDE


def _only_for(waiter: Any, tasks: set[Task]) -> bool:
    """Whether a future is a task of the run, or gathers nothing else."""
    if waiter in tasks:
        return True
    gathered: Sequence[Any] = getattr(waiter, "_children", ())
    return bool(gathered) and all(each.done() or _only_for(each, tasks) for each in gathered)


def _chain(task: Task) -> Iterator[Any]:
    """The coroutines and generators that a task is in, from the outermost."""
    link: Any = task.get_coro()
    while link is not None:
        yield link
        link = getattr(link, "cr_await", None) or getattr(link, "gi_yieldfrom", None)


_UNTIMED: Final = asyncio.wait.__code__
_WAITING_CODE: Final = frozenset({asyncio.TaskGroup.__aexit__.__code__, asyncio.wait_for.__code__})
_WAITING_NAMES: Final = frozenset({"TaskGroup.__aexit__", "_wait_for_one"})
"""anyio's task group, and asyncio's `as_completed`."""


def _waits_for_tasks(link: Any) -> bool:
    code = getattr(link, "cr_code", None)
    if code is None or inspect.getcoroutinestate(link) != inspect.CORO_SUSPENDED:
        return False
    if code is _UNTIMED:
        return link.cr_frame.f_locals.get("timeout") is None
    return code in _WAITING_CODE or code.co_qualname in _WAITING_NAMES or code.co_name in _WAITING_NAMES


_LOCKS: Final = frozenset({asyncio.Lock.acquire.__code__.co_filename, asyncio.Queue.get.__code__.co_filename})


def waits_for_lock(task: Task) -> bool:
    """Whether what a task waits for is a lock, a semaphore, an event or a queue: most likely of the run's own."""
    codes = [link.cr_code for link in _chain(task) if hasattr(link, "cr_code")]
    return bool(codes) and codes[-1].co_filename in _LOCKS


_LIBRARIES: Final = frozenset({"asyncio", "site-packages", "dist-packages"})


def place_of(task: Task) -> str:
    """Where a task waits, as `function (file:line)`: the innermost place that is of no library."""
    places = [link for link in _chain(task) if getattr(link, "cr_frame", None) is not None]
    own = [link for link in places if not _LIBRARIES.intersection(PurePath(link.cr_code.co_filename).parts)]
    if not own:
        return f"{getattr(task.get_coro(), '__qualname__', 'a coroutine')} ({task.get_name()})"
    frame = own[-1].cr_frame
    return f"{own[-1].cr_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"


async def end(tasks: set[Task], seconds: float, rounds: int = 3) -> set[Task]:
    """Cancel tasks and wait for them, `seconds` a round, a few rounds; those that go on all the same."""
    left = {task for task in tasks if not task.done()}
    for _ in range(rounds):
        if not left:
            break
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=seconds)
    for task in tasks - left:
        if not task.cancelled():
            task.exception()  # taken, so that nobody reports that it never was
    return left
