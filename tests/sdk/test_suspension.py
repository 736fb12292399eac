"""When a segment is over: at once where nothing can go on, and never with anything left behind."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from slayq import SlayQ, Step, StepFailed, Suspended, SyncStep
from tests.support.segments import brief, done, ops, pending, stream

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG = 3600.0
"""A grace that no test would live to see: with it, only what suspends at once ends at all."""


@pytest.fixture
def sq() -> SlayQ:
    return SlayQ(url="https://app.test/slayq", secret="secret")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No test leaves a thread of a function behind."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()


async def tasks_left() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def one() -> int:
    return 1


async def test_a_plain_step_suspends_at_once(sq: SlayQ) -> None:
    """The function is called off at the step, and what stands after it does not run."""
    seen: list[str] = []

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        try:
            await step.sleep("a", "1s")
            seen.append("after")
        except Exception:
            seen.append("caught")
        finally:
            seen.append("finally")

    assert [{"op": "sleep", "name": "a", "ms": 1000}, {"op": "suspend"}] == await ops(function, grace=LONG)
    assert ["finally"] == seen
    assert [] == await tasks_left()


async def test_gather_suspends_when_all_branches_are_blocked(sq: SlayQ) -> None:
    """A branch with a body to run holds the segment open; then it is over without a delay."""
    gate = asyncio.Event()

    async def slow() -> int:
        await gate.wait()
        return 2

    async def branch(step: Step) -> None:
        await step.run("body", slow)
        await step.sleep("after the body", "1h")

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        asyncio.get_running_loop().call_soon(gate.set)
        await asyncio.gather(step.sleep("a", "1s"), branch(step), asyncio.gather(step.sleep("b", "1s")))

    answer = brief(await ops(function, grace=LONG))
    assert ["sleep a", "sleep b"] == sorted(answer[:2])
    assert ["step body", "sleep after the body", "suspend"] == answer[2:]
    assert [] == await tasks_left()


async def test_gather_that_returns_exceptions_does_not_swallow_the_suspension(sq: SlayQ) -> None:
    """`return_exceptions=True` gives the function its exceptions, not the suspension."""

    @sq.function(event="test/event")
    async def function(step: Step) -> list[str]:
        found = await asyncio.gather(step.sleep("a", "1s"), step.run("one", one), return_exceptions=True)
        return [str(each) for each in found]

    assert ["sleep a", "step one", "suspend"] == brief(await ops(function, grace=LONG))


async def test_task_group_suspends(sq: SlayQ) -> None:
    """A TaskGroup, and one within another, are left without an exception group."""

    async def inner(step: Step) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.sleep("c", "1s"))
            group.create_task(step.sleep("d", "1s"))

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step.sleep("a", "1s"))
            group.create_task(inner(step))
            await step.sleep("b", "1s")

    answer = brief(await ops(function, grace=LONG))
    assert ["sleep a", "sleep b", "sleep c", "sleep d", "suspend"] == sorted(answer[:-1]) + answer[-1:]
    assert [] == await tasks_left()


@pytest.mark.parametrize("how", ["task", "wait", "wait_for", "as_completed", "timeout"])
async def test_other_ways_to_wait_for_steps(sq: SlayQ, how: str) -> None:
    """Awaiting a task, asyncio.wait, wait_for, as_completed and timeout are seen through, too."""

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        if how == "task":
            await asyncio.create_task(step.sleep("a", "1s"))
        elif how == "wait":
            await asyncio.wait([asyncio.create_task(step.sleep("a", "1s"))])
        elif how == "wait_for":
            await asyncio.wait_for(step.sleep("a", "1s"), 1000)
        elif how == "as_completed":
            for each in asyncio.as_completed([step.sleep("a", "1s")]):
                await each
        else:
            async with asyncio.timeout(1000):
                await asyncio.gather(step.sleep("a", "1s"))

    assert ["sleep a", "suspend"] == brief(await ops(function, grace=LONG))
    assert [] == await tasks_left()


async def test_what_is_awaited_outside_of_a_step_is_cancelled_with_a_warning(
    sq: SlayQ, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a branch gets a short grace; the warning says where it stands."""
    cancelled: list[bool] = []

    async def outside() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await asyncio.gather(step.sleep("a", "1s"), outside())

    with caplog.at_level(logging.WARNING, "slayq"):
        assert ["sleep a", "suspend"] == brief(await ops(function, grace=0.01))
    assert [True] == cancelled
    (record,) = caplog.records
    assert record.message.startswith("function_awaits_outside_step")
    assert "outside (" in record.message
    assert "test_suspension.py" in record.message


async def test_branches_that_wait_for_their_turn_are_no_cause_for_a_warning(
    sq: SlayQ, caplog: pytest.LogCaptureFixture
) -> None:
    """A semaphore over steps, a queue between branches: nothing is wrong with those. One line a place, at info."""
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def in_turn(turn: asyncio.Semaphore, step: Step, number: int) -> None:
        async with turn:
            await step.sleep(f"nap {number}", "1s")

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        turn = asyncio.Semaphore(2)
        await asyncio.gather(queue.get(), *(in_turn(turn, step, number) for number in range(5)))

    with caplog.at_level(logging.INFO, "slayq"):
        assert ["sleep nap 0", "sleep nap 1", "suspend"] == brief(await ops(function, grace=0.01))
    assert [logging.INFO, logging.INFO] == [record.levelno for record in caplog.records]
    in_turn_said, queue_said = sorted((record.message for record in caplog.records), key=lambda said: "Queue" in said)
    assert ".in_turn (" in in_turn_said
    assert "Queue.get (" in queue_said


async def test_what_ends_within_the_grace_goes_on(sq: SlayQ, caplog: pytest.LogCaptureFixture) -> None:
    """A branch that is back in a step in time counts as any other."""

    async def outside(step: Step) -> None:
        await asyncio.to_thread(int)
        await step.run("one", one)

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await asyncio.gather(step.sleep("a", "1s"), outside(step))

    assert ["sleep a", "step one", "suspend"] == brief(await ops(function, grace=LONG))
    assert [] == caplog.records


async def test_a_task_that_nobody_awaits_is_ended(sq: SlayQ) -> None:
    """What a function leaves running is cancelled when it returns, and when it is suspended."""
    ended: list[str] = []

    async def loiter(name: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(name)

    @sq.function(event="test/returns")
    async def returns(step: Step) -> None:
        task = asyncio.create_task(loiter("returns"))
        await asyncio.sleep(0)
        assert not task.done()

    @sq.function(event="test/suspends")
    async def suspends(step: Step) -> None:
        task = asyncio.create_task(loiter("suspends"))
        await step.sleep("a", "1s")
        assert not task.done()

    assert ["done"] == brief(await ops(returns))
    assert ["sleep a", "suspend"] == brief(await ops(suspends, grace=0.01))
    assert ["returns", "suspends"] == ended
    assert [] == await tasks_left()


async def test_tasks_that_a_body_starts_are_its_own(sq: SlayQ) -> None:
    """A body may start what lives longer than the run, such as a pool of connections."""
    gate = asyncio.Event()
    started: list[asyncio.Task[Any]] = []

    async def body() -> None:
        started.append(asyncio.create_task(gate.wait()))

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await step.run("body", body)

    assert ["step body", "done"] == brief(await ops(function))
    assert not started[0].done()
    gate.set()
    await started[0]


async def test_the_loop_s_task_factory(sq: SlayQ) -> None:
    """A factory of the app's goes on making the tasks, and the loop has it back when no segment runs."""
    loop = asyncio.get_running_loop()
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await asyncio.gather(step.sleep("a", "1s"), step.sleep("b", "1s"))

    assert ["sleep a", "sleep b", "suspend"] == brief(await ops(function, grace=LONG))
    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    answers = await asyncio.gather(*(ops(function, grace=LONG) for _ in range(3)))
    assert [["sleep a", "sleep b", "suspend"]] * 3 == [brief(answer) for answer in answers]
    assert loop.get_task_factory() is factory
    assert 6 == sum("_sleep" in name for name in made)


async def test_many_runs_at_once(sq: SlayQ) -> None:
    """Runs do not see each other's tasks."""

    @sq.function(event="test/event")
    async def function(step: Step) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(step.run(f"step {number}", one)) for number in range(3)]
        return sum(task.result() for task in tasks)

    answers = await asyncio.gather(*(ops(function, grace=LONG) for _ in range(100)))
    assert [3] * 100 == [answer[-1]["output"] for answer in answers]


@pytest.mark.parametrize("kind", ["returns", "raises", "cancelled"])
async def test_swallowing_the_suspension_is_reported(sq: SlayQ, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A function that catches BaseException fails its attempt, with an error that says so; nothing recorded is lost."""

    @sq.function(event="test/event")
    async def function(step: Step) -> str:
        try:
            if kind == "cancelled":
                await asyncio.gather(step.sleep("a", "1s"))
            await step.sleep("b", "1s")
        except BaseException as error:
            if kind == "raises":
                raise ValueError("no") from error
        return "swallowed"

    answer = await ops(function, grace=LONG)
    assert ("sleep a" if kind == "cancelled" else "sleep b") == brief(answer)[0]
    assert ("failed", "SwallowedSuspension", True) == (
        answer[-1]["op"],
        answer[-1]["error"]["type"],
        answer[-1]["retry"],
    )
    assert [] == await tasks_left()


async def test_a_loop_that_catches_everything_does_not_hang(
    sq: SlayQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even a function that catches whatever it is told, for ever, ends its segment."""
    monkeypatch.setattr("slayq.segment.runner._UNWIND_SECONDS", 0.01)
    stop = False

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        while not stop:
            try:
                await step.sleep("a", "1s")
            except BaseException:
                continue

    answer = await ops(function, grace=LONG)
    assert ["sleep a", "failed"] == brief(answer)
    assert "SwallowedSuspension" == answer[-1]["error"]["type"]
    assert any(each.message.startswith("function_ignores_cancellation") for each in caplog.records)
    stop = True


async def test_a_loop_round_a_refused_step_ends_the_attempt(sq: SlayQ) -> None:
    """`while True` with `except Exception` round a repeated step neither hangs nor goes on for ever."""

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        while True:
            try:
                await step.run("one", one)
            except Exception:
                continue

    answer = await ops(function, grace=LONG)
    assert ["step one", "failed"] == brief(answer)
    assert "RepeatedStep" == answer[-1]["error"]["type"]


async def test_plain_functions_suspend_at_once(sq: SlayQ) -> None:
    """A plain function leaves its thread by Suspended, which `except Exception` lets pass."""
    seen: list[str] = []

    @sq.function(event="test/event")
    def function(step: SyncStep) -> None:
        seen.append("began")
        try:
            step.sleep("a", "1s")
        except Exception:
            seen.append("caught")
        except Suspended:
            seen.append("suspended")
            raise

    assert ["sleep a", "suspend"] == brief(await ops(function, grace=LONG))
    assert ["began", "suspended"] == seen
    assert [] == await tasks_left()


async def test_bodies_of_plain_functions_run_in_the_function_s_thread(sq: SlayQ) -> None:
    """So that what belongs to a thread, such as a connection of Django, serves all of them."""
    threads: list[int] = []

    def body() -> None:
        threads.append(threading.get_ident())

    @sq.function(event="test/event")
    def function(step: SyncStep) -> None:
        threads.append(threading.get_ident())
        step.run("body", body)
        step.options(timeout="1m").run("with a time limit", body)

    assert ["step body", "step with a time limit", "done"] == brief(await ops(function))
    assert threads[0] == threads[1] != threads[2]


async def test_a_swallowing_plain_function_is_reported(sq: SlayQ) -> None:
    """The same for threads: the attempt fails with a clear error."""

    @sq.function(event="test/event")
    def function(step: SyncStep) -> None:
        for _ in range(3):
            try:
                step.sleep("a", "1s")
            except BaseException:
                continue

    assert "SwallowedSuspension" == (await ops(function))[-1]["error"]["type"]


async def test_closing_the_answer_cancels_the_function(sq: SlayQ) -> None:
    """In the middle of a long step, at once, and with nothing left behind."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def long() -> None:
        try:
            started.set()
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await asyncio.gather(step.run("long", long), step.sleep("a", "1s"))

    lines = stream(function)
    assert b"hello" in await anext(lines)
    await started.wait()
    await lines.aclose()
    assert ended.is_set()
    assert [] == await tasks_left()
    assert [] == [line async for line in lines]
    await lines.aclose()


async def test_closing_while_somebody_waits_for_a_line(sq: SlayQ) -> None:
    """Whoever reads the answer comes to its end when another closes it."""
    started = asyncio.Event()

    async def long() -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await step.run("long", long)

    lines = stream(function)

    async def read() -> list[bytes]:
        return [line async for line in lines]

    reader = asyncio.create_task(read())
    await started.wait()
    await lines.aclose()
    assert 1 == len(await reader)


async def test_cancelling_the_reader_cancels_the_function(sq: SlayQ) -> None:
    """A framework that cancels its request handler needs to do nothing else."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def long() -> None:
        try:
            started.set()
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await step.run("long", long)

    async def read() -> list[bytes]:
        return [line async for line in stream(function)]

    reader = asyncio.create_task(read())
    await started.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert ended.is_set()
    assert [] == await tasks_left()


async def test_silence_is_filled_with_empty_lines(sq: SlayQ) -> None:
    """Proxies see something of a long step."""
    gate = asyncio.Event()

    async def long() -> None:
        await gate.wait()

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await step.run("long", long)

    lines = stream(function, keep_alive=0.01)
    assert b"hello" in await anext(lines)
    assert b"\n" == await anext(lines)
    gate.set()
    rest = [line async for line in lines if line.strip()]
    assert b'"step"' in rest[0]


async def test_recorded_steps_do_not_run_again(sq: SlayQ) -> None:
    """Their outputs are read back, and steps that the function does not ask for any more are passed over."""

    def never() -> int:
        raise AssertionError("ran again")

    @sq.function(event="test/event")
    async def function(step: Step) -> int:
        await step.sleep("nap", "1s")
        return await step.run("never", never) + await step.run("one", one)

    answer = await ops(function, done("gone"), done("never", 41), done("nap", kind="sleep"))
    assert [{"op": "step", "name": "one", "output": 1}, {"op": "done", "output": 42}] == answer


async def test_a_pending_step_is_not_registered_again(sq: SlayQ) -> None:
    """A sleep that has not ended just suspends; another step is another matter."""

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await asyncio.gather(step.sleep("a", "1s"), step.run("one", one))

    assert ["step one", "suspend"] == brief(await ops(function, pending("a", "sleep"), grace=LONG))


async def test_a_failing_branch_in_a_task_group_fails_the_function(sq: SlayQ) -> None:
    """The other branch, which waits, is cancelled by the group as ever."""

    def no() -> None:
        raise ValueError("no")

    @sq.function(event="test/event")
    async def function(step: Step) -> str:
        said = "passed"
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.sleep("a", "1s"))
                group.create_task(step.options(retries=0).run("no", no))
        except* StepFailed as failed:
            said = str(failed.exceptions[0])
        return said

    answer = await ops(function)
    assert "step 'no' failed: ValueError: no" == answer[-1]["output"]
