"""The stand-in's functions. What each is told to do stands in the event's data; node/functions.mjs has the same."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from tests.contract.client import Answer, Function, NoRetry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.contract.client import Run

FUNCTIONS: dict[str, Function] = {}
CRONTABS = {"cron/minute": "* * * * *", "cron/never": "0 0 30 2 *"}


def function(
    event: str, queue: str = "general", retries: int | None = None, cancel_on: tuple[tuple[str, str], ...] = ()
) -> Callable[[Callable[[Run], Awaitable[Any]]], None]:
    def register(run: Callable[[Run], Awaitable[Any]]) -> None:
        FUNCTIONS[event] = Function(event, run, queue, retries, cancel_on)

    return register


@function("data/echo")
async def echo(run: Run) -> Any:
    return run.data


@function("cron/minute")
async def every_minute(run: Run) -> Any:
    return "a minute has passed"


@function("cron/never")
async def never(run: Run) -> Any:
    return "it is the 30th of February"


@function("steps/plain")
async def plain(run: Run) -> Any:
    return {"a": await run.step("a", lambda: 1), "b": await run.step("b", lambda: run.data["word"])}


@function("steps/retried")
async def retried(run: Run) -> Any:
    first = await run.step("first", lambda: "kept")
    await run.step("shaky", lambda: run.fail(2))
    return {"first": first, "thrown": run.client.thrown[run.key]}


@function("steps/hopeless", retries=3)
async def hopeless(run: Run) -> Any:
    kept = await run.step("kept", lambda: "kept")
    mended = run.client.flag(f"mended {run.data['tag']}").is_set()
    await run.step("broken", lambda: run.fail(0 if mended else 1_000_000))
    return kept


@function("steps/uncaught")
async def uncaught(run: Run) -> Any:
    run.fail(2)
    return run.client.thrown[run.key]


@function("steps/held")
async def held(run: Run) -> Any:
    await run.step("hold", lambda: run.until(f"go {run.data['tag']} {run.data['n']}"))
    return run.data["n"]


@function("sleep/short")
async def sleeps(run: Run) -> Any:
    before = await run.step("before", lambda: "before")
    await run.sleep("nap", run.data["ms"])
    return [before, await run.step("after", lambda: "after")]


@function("sleep/until")
async def sleeps_until(run: Run) -> Any:
    await run.sleep_until("until", datetime.fromisoformat(run.data["at"]))
    return "awake"


@function("wait/event")
async def waits(run: Run) -> Any:
    before = await run.step("before", lambda: "before")
    between = None
    if run.data.get("between"):

        async def between() -> None:
            await run.client.send("wait/approved", {"order": run.data["order"]}, during=run.key)

    name = run.data.get("step", "approved")
    return [before, await run.wait_for_event(name, "wait/approved", "order", run.data["ms"], between)]


@function("invoke/caller")
async def calls(run: Run) -> Any:
    return {"answer": await run.invoke("call", run.data["callee"], run.data["given"], run.data["ms"])}


@function("invoke/callee")
async def is_called(run: Run) -> Any:
    if "ms" in run.data:
        await run.sleep("nap", run.data["ms"])
    return run.data.get("answer")


@function("send/fan")
async def sends_many(run: Run) -> Any:
    events = [("send/received", {"tag": run.data["tag"], "n": n}) for n in range(run.data["count"])]
    return await run.send_events("fan", events)


@function("send/received")
async def receives(run: Run) -> Any:
    return run.data["n"]


@function("cancel/pending", cancel_on=(("cancel/stop", "user"),))
async def is_cancelled(run: Run) -> Any:
    match run.data["does"]:
        case "sleep":
            await run.sleep("nap", 60_000)
        case "wait":
            await run.wait_for_event("approved", "wait/approved", "user", 60_000)
        case "invoke":
            await run.invoke("call", "steps/held", {"tag": run.data["user"], "n": 0}, 60_000)
        case "fail":
            raise Answer(503, {"Retry-After": "60"})
    return "was not cancelled"


@function("cancel/held", cancel_on=(("cancel/stop", "user"),))
async def is_cancelled_meanwhile(run: Run) -> Any:
    await run.step("hold", lambda: run.until(f"go {run.data['tag']}"))
    match run.data["does"]:
        case "sleep":
            await run.sleep("nap", 100)
        case "throw":
            await run.step("shaky", lambda: run.fail(1))
        case "fail":
            run.fail(1)
    return "finished"


@function("cancel/self", cancel_on=(("cancel/self", "user"),))
async def cancels_itself(run: Run) -> Any:
    await run.sleep("settle", run.data["ms"])
    return run.data["n"]


@function("answer/no-retry")
async def gives_up(run: Run) -> Any:
    async def give_up() -> None:
        raise NoRetry

    await run.step("hopeless", give_up)


@function("answer/status")
async def answers(run: Run) -> Any:
    statuses: list[int] = run.data["statuses"]
    count = run.client.thrown[run.key]
    run.client.thrown[run.key] += 1
    raise Answer(statuses[min(count, len(statuses) - 1)], run.data.get("headers"))


@function("after/sleep", queue="impatient")
async def misbehaves_after_a_sleep(run: Run) -> Any:
    await run.sleep("nap", run.data["ms"])
    return "finished"


@function("after/failure", queue="impatient")
async def misbehaves_after_a_failure(run: Run) -> Any:
    kept = await run.step("kept", lambda: "kept")
    await run.step("shaky", lambda: run.fail(1))
    return kept
