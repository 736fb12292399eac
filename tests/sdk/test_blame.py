"""Which steps a run's failure is put down to: those are tried again when the dead letter is put back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from slayq import NoRetry, SlayQ, Step, StepFailed
from tests.support.segments import ops


@pytest.fixture
def sq() -> SlayQ:
    return SlayQ(url="https://app.test/slayq", secret="secret")


async def fails() -> None:
    raise NoRetry("no such card")


async def end_of(function: Any) -> dict[str, Any]:
    """The last op."""
    last: dict[str, Any] = (await ops(function))[-1]
    assert "failed" == last["op"]
    return last


async def test_a_failure_that_nobody_caught_names_its_step(sq: SlayQ) -> None:
    """One that was caught is not named, nor is any if the function itself raised."""

    @sq.function(event="test/blamed")
    async def function(step: Step) -> None:
        with pytest.raises(StepFailed):
            await step.run("caught", fails)
        await step.run("let pass", fails)

    assert ["let pass"] == (await end_of(function))["steps"]

    @sq.function(event="test/own")
    async def other(step: Step) -> None:
        try:
            await step.run("caught", fails)
        except StepFailed as error:
            raise NoRetry("of my own") from error

    assert "steps" not in await end_of(other)


async def test_a_group_names_all_of_its_steps(sq: SlayQ) -> None:
    """Each once, however deep in it."""

    @sq.function(event="test/group")
    async def function(step: Step) -> None:
        outcomes = await asyncio.gather(step.run("a", fails), step.run("b", fails), return_exceptions=True)
        errors = [each for each in outcomes if isinstance(each, Exception)]
        raise ExceptionGroup("both", [errors[0], ExceptionGroup("inner", errors)])

    assert ["a", "b"] == (await end_of(function))["steps"]


async def test_no_more_are_named_than_the_server_takes(sq: SlayQ) -> None:
    """A hundred."""

    @sq.function(event="test/many")
    async def function(step: Step) -> None:
        raise ExceptionGroup("many", [StepFailed(f"step {number}", "E", "m") for number in range(150)])

    assert 100 == len((await end_of(function))["steps"])


async def breaks() -> None:
    raise ConnectionError("the bank is away")


@pytest.mark.parametrize(("body", "retry"), [(breaks, True), (fails, False)])
async def test_attempts_that_are_used_up_are_said_to_be(sq: SlayQ, body: Any, retry: bool) -> None:
    """On the last attempt, a step that would have been tried again differs from one that says not to."""

    @sq.function(event="test/event")
    async def function(step: Step) -> None:
        await step.run("charge", body)

    failed, end = (await ops(function, attempt=3, max_attempts=3))[-2:]
    assert (True, retry, ["charge"]) == (failed["final"], end["retry"], end["steps"])
