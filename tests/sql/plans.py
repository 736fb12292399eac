"""Measures how many rows and pages the hot statements read, on a small table and on a big one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slayq_server.db.pool import _PLANS as SESSION_SETTINGS
from slayq_server.db.statements import query
from tests.sql.support import URL

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    from tests.conftest import Connect

ROWS = 200_000
FEW = 60
"""Jobs of each kind that the statements are about."""
GROWING = {"job", "wait", "dead_letter", "done_job", "trigger", "step", "event", "sent"}
PAYLOAD = f'{{"url": "{URL}", "event": "shop/order", "data": {{"n": %s}}}}'
CONTINUED = f'{{"url": "{URL}", "event": "shop/order", "data": {{"n": 1}}, "cache": {{}}}}'

# A handful of jobs in every state, for the statements to act upon; ids by what they are for.
HANDFUL = f"""
insert into slayq.worker (name, version, queues, expires_at)
values ('alive', '0', '{{mail}}', now() + interval '1 hour'), ('dead', '0', '{{mail}}', now() - interval '1 minute');

insert into slayq.job
    (queue, state, event, payload, match_terms, worker_id, lease, job_key, serial_queue, holds, run_at)
select 'mail', state, 'shop/order', replace('{PAYLOAD}', '%s', n::text)::json,
    slayq._match_terms_1('shop/order', json_build_object('n', n)), worker_id, coalesce(worker_id, 0), key || '-' || n,
    lane, coalesce(holds, false), now() + run_at::interval
from (values
    ('ready', null::bigint, 'ready', null, null::boolean, '-1 s'),
    ('leased', 1, 'leased', null, null, '-1 s'),
    ('leased', 2, 'orphan', null, null, '-1 s'),
    ('scheduled', null, 'due', null, null, '-1 s'),
    ('scheduled', null, 'parked', null, null, '1 hour'),
    ('scheduled', null, 'putoff', null, null, '1 hour'),
    ('leased', 1, 'head', 'lane ', true, '-1 s'),
    ('blocked', null, 'blocked', 'lane ', null, '-1 s'),
    ('blocked', null, 'headless', 'headless ', null, '-1 s')
) as kinds (state, worker_id, key, lane_prefix, holds, run_at)
cross join lateral (select n from generate_series(1, {FEW}) as n) as numbers
cross join lateral (select lane_prefix || n as lane) as lanes;

update slayq.job set put_off = 'https://few.example.com', put_off_until = run_at where job_key like 'putoff-%';

insert into slayq.wait (job_id, kind, term, event, match_key, match_value, step_name)
select id, 'event', slayq._term_1('paid', 'order', '7'), 'paid', 'order', '7', 'step'
from slayq.job where job_key like 'parked-%';

insert into slayq.dead_letter
    (id, queue, reason, priority, attempts, max_attempts, job_key, event, payload, run_at, created_at)
select -n, 'mail', 'no-retry', 0, 1, 25, 'letter-' || n, 'shop/order', replace('{PAYLOAD}', '%s', n::text)::json,
    now(), now()
from generate_series(1, {FEW}) as n;

select slayq.register('{{"app": "shop", "url": "{URL}", "functions": [
    {{"event": "run/order", "cancel_on": [{{"event": "run/stop", "match": "n"}}],
     "waits_on": [{{"event": "run/paid", "match": "n"}}], "queue": "runs"}}]}}');

insert into slayq.job
    (queue, state, event, payload, match_terms, worker_id, lease, job_key, run_at, run_id, born, parked)
select 'runs', state, 'run/order', replace('{PAYLOAD}', '%s', n::text)::json,
    slayq._match_terms_1('run/order', json_build_object('n', n)), worker_id, coalesce(worker_id, 0), key || '-' || n,
    now() + run_at::interval, gen_random_uuid(), pg_current_snapshot(), state = 'scheduled'
from (values
    ('ready', null::bigint, 'runready', '-1 s'),
    ('leased', 1, 'runleased', '-1 s'),
    ('scheduled', null, 'rundue', '-1 s'),
    ('scheduled', null, 'runparked', '1 hour')
) as kinds (state, worker_id, key, run_at)
cross join lateral (select n from generate_series(1, {FEW}) as n) as numbers;

insert into slayq.step (job_id, name, kind, state, number, output)
select id, 'step', 'run', 'done', 1, '1' from slayq.job where run_id is not null;
insert into slayq.step (job_id, name, kind, state, due_at, term, event, match_key, match_value)
select id, 'wait', 'wait', 'pending', run_at, slayq._term_1('run/paid', 'n', split_part(job_key, '-', 2)), 'run/paid',
    'n', split_part(job_key, '-', 2)
from slayq.job where job_key like 'runparked-%' or job_key like 'rundue-%';
insert into slayq.event (kind, term, event, match_key, match_value, value)
select 'event', slayq._term_1('run/paid', 'n', n::text), 'run/paid', 'n', n::text, '{{}}'
from generate_series(1, 5) as n;
"""

# What must cost nothing: runs that sleep, wait or failed, jobs put off for another endpoint, jobs
# blocked behind two busy lanes, jobs of a queue without a server, dead letters, remembered triggers.
CROWD = f"""
create temporary table crowd as
select n, case when n % 10 < 5 then 'scheduled' when n % 10 < 8 then 'blocked' else 'ready' end as state
from generate_series(1, {ROWS}) as n;

insert into slayq.job (queue, state, event, payload, match_terms, job_key, serial_queue, run_at, attempts, priority)
select case when state = 'ready' then 'nobody' else 'mail' end, state, 'shop/order',
    replace('{PAYLOAD}', '%s', (n + 1000)::text)::json, array[slayq._match_term_1('shop/order', 'n', (n + 1000)::text)],
    'crowd-' || n, case when state = 'blocked' then 'lane ' || n % 2 + 1 end,
    now() + case when state = 'scheduled' then interval '1 day' else interval '-1 day' end, n % 3, n % 5
from crowd;
update slayq.job set put_off = 'https://crowd.example.com', put_off_until = run_at
where job_key like 'crowd-%' and state = 'scheduled' and id % 4 = 0;

insert into slayq.wait (job_id, kind, term, event, match_key, match_value, step_name)
select id, 'event', slayq._term_1('paid', 'order', job_key), 'paid', 'order', job_key, 'step'
from slayq.job where job_key like 'crowd-%' and state = 'scheduled' and id % 2 = 0;

insert into slayq.dead_letter
    (id, queue, reason, priority, attempts, max_attempts, job_key, event, payload, run_at, created_at)
select -1000 - n, 'mail', 'no-retry', 0, 1, 25, 'letter-' || n + 1000, 'shop/order',
    replace('{PAYLOAD}', '%s', n::text)::json, now(), now()
from crowd where n % 2 = 0;

insert into slayq.trigger (term, kind, event, match_key, match_value)
select slayq._term_1('paid', 'order', 'x' || n), 'event', 'paid', 'order', 'x' || n from crowd where n % 10 = 0;

insert into slayq.job
    (queue, state, event, payload, match_terms, job_key, run_at, run_id, born, parked, created_at)
select 'runs', 'scheduled', 'run/order', replace('{PAYLOAD}', '%s', (n + 1000)::text)::json,
    array[slayq._match_term_1('run/order', 'n', (n + 1000)::text)], 'crowdrun-' || n, now() + interval '1 day',
    gen_random_uuid(), pg_current_snapshot(), true, now() - interval '2 days'
from crowd where n % 2 = 0;
insert into slayq.step (job_id, name, kind, state, number, output)
select id, 'step', 'run', 'done', 1, '1' from slayq.job where job_key like 'crowdrun-%';
insert into slayq.step (job_id, name, kind, state, due_at, term, event, match_key, match_value)
select id, 'wait', 'wait', 'pending', run_at, slayq._term_1('run/paid', 'n', job_key), 'run/paid', 'n', job_key
from slayq.job where job_key like 'crowdrun-%';
insert into slayq.event (kind, term, event, match_key, match_value, value, matched, created_at)
select 'event', slayq._term_1('run/paid', 'n', 'x' || n), 'run/paid', 'n', 'x' || n, '{{}}', true,
    now() - interval '1 hour'
from crowd where n % 2 = 0;
insert into slayq.sent (id, event) select 'x' || n, 'run/order' from crowd where n % 2 = 0;
"""


SETTLED = f"1, <leased>, array_fill(1::bigint, array[{FEW}])"
ERRORS = f"array_fill('500'::text, array[{FEW}])"
NO_PAYLOADS = f"array_fill(null::json, array[{FEW}])"

# A daemon's statements, with arguments: these run with the settings of the daemon's connections.
DAEMON = {
    "lease": f"1, '{{mail,post}}', '{{0,0}}', '{{{FEW},{FEW}}}', '{{0,0}}', '{{0,0}}', '{{0,0}}', '{{0,0}}', null",
    "lease runs": f"1, '{{runs}}', '{{0}}', '{{{FEW}}}', '{{0}}', '{{0}}', '{{0}}', '{{0}}', null",
    "settle_completed": f"{SETTLED}, true",
    "settle_retried": (
        f"{SETTLED}, array_fill(9.0::float8, array[{FEW}]), {ERRORS}, array_fill(false, array[{FEW}]), {NO_PAYLOADS}"
    ),
    "settle_dead": f"{SETTLED}, {ERRORS}, {ERRORS}, {NO_PAYLOADS}",
    "settle_released": SETTLED,
    "settle_put_off": f"{SETTLED}, array_fill(9.0::float8, array[{FEW}]), {ERRORS}",
    "bring_forward": "'https://few.example.com', 20, '{mail}'",
    "release_unknown": "1, '{1}'",
    "promote": "100",
    "reap": "100",
    "headless_lanes": "1000",
    "advance_lanes": "array['lane 1', 'lane 2', 'headless 1']",
    "worker_renew": "1, 60, '{mail,post,letters}', '[]'",
    "add_job": f"'mail', '{PAYLOAD % 1}', null, null, null, 'leased-1', null, null, null",
    "admin_redrive": "array[-1, -2]",
    "flush_runs": (
        "1, <runleased>, array_fill(1::bigint, array[{few}]), array_fill(1::bigint, array[{few}]), {ends},"
        " array_fill('1'::json, array[{few}]), {texts}, array_fill(null::float8, array[{few}]), {texts},"
        " array[1, 2, 3], '{{step,wait,sleep}}', '{{a,b,c}}', array['1'::json, null, null], '{{null,run/paid,null}}',"
        " '{{null,n,null}}', '{{null,7,null}}', '{{null,60,60}}', array_fill(null::timestamptz, array[3]),"
        " array_fill(null::integer, array[3]), array_fill(null::boolean, array[3]), true, '{{}}'"
    ).format(
        few=FEW,
        ends=f"array['suspended', 'suspended', 'suspended'] || array_fill('done'::text, array[{FEW - 3}])",
        texts=f"array_fill(null::text, array[{FEW}])",
    ),
    "match_events": "100, 0",
    "runs_cancelled": "1",
    "prune_events": "86400, 100",
    "prune_sent": "86400, 100",
    "prune_triggers": "86400, 1000000, 100",
    "prune_dead": "86400, 100",
}

# What apps call, from sessions with any settings. `<parked>` and the like stand for ids of the handful.
APP = {
    "add": f"select slayq._add_job_1('mail', '{PAYLOAD % 1}', null, null, null, null, null, null, null)",
    "add to a lane": f"select slayq._add_job_1('mail', '{PAYLOAD % 1}', 'lane 1', null, null, null, null, null, null)",
    "add a new key": f"select slayq._add_job_1('mail', '{PAYLOAD % 1}', null, null, null, 'new', null, null, null)",
    "add a parked key": (
        f"select slayq._add_job_1('mail', '{PAYLOAD % 1}', null, null, null, 'parked-1', null, null, null)"
    ),
    "add a running key": (
        f"select slayq._add_job_1('mail', '{PAYLOAD % 1}', null, null, null, 'leased-1', null, null, null)"
    ),
    "continue a job that is gone": (
        f"select slayq._add_job_1('mail', '{CONTINUED}', null, now() + interval '1 h', null, 'gone', null, null, null)"
    ),
    "report of a dead letter": (
        f"select slayq._add_job_1('mail', '{CONTINUED}', null, null, null, 'letter-1', null, null, null)"
    ),
    "add in bulk": (
        f"select slayq._add_jobs_1(array_fill(row('mail', '{PAYLOAD % 1}', null, null, null, null, null, null)"
        "::slayq.job_spec, array[20]), 'replace')"
    ),
    "wait for an event": "select slayq._wait_for_event_1('parked-1', 'refused', 'order', '7', 'other')",
    "wait for an invocation": "select slayq._wait_for_invocation_1('parked-1', 'callee', 'other')",
    "trigger": "select slayq._trigger_event_1('paid', 'order', '7')",
    "trigger an invoker": "select slayq._trigger_invoker_1('callee', '1')",
    "cancel": "select slayq._cancel_1('shop/order', 'n', '1')",
    "cancel nothing": "select slayq._cancel_1('shop/order', 'n', 'nothing')",
    "remove": "select slayq.remove_job('parked-1')",
    "remove a running one": "select slayq.remove_job('leased-1')",
    "complete": "select slayq.complete_jobs(<parked>)",
    "fail": "select slayq.permanently_fail_jobs(<parked>)",
    "reschedule": "select slayq.reschedule_jobs(<parked>, priority => 1)",
    "send": "select slayq.send('run/order', '{\"n\": 1}')",
    "send an id": "select slayq.send('run/order', '{\"n\": 1}', 'new')",
    "send what is waited for": "select slayq.send('run/paid', '{\"n\": 1}')",
    "send what cancels": "select slayq.send('run/stop', '{\"n\": 1}')",
    "cancel a run": "select slayq.cancel((select run_id from slayq.job where job_key = 'runparked-1'))",
}


@dataclass(frozen=True)
class Reading:
    """What one run of a statement read."""

    rows: int
    """Of tables, by whatever means."""
    pages: int
    sequential: tuple[str, ...]
    """The tables read from end to end."""


READ = """
    select relname, coalesce(seq_tup_read, 0) as seq, coalesce(idx_tup_fetch, 0) as idx
    from pg_stat_xact_user_tables where schemaname = 'slayq'"""


def statements() -> set[str]:
    """The files of queries/ that are measured, one with several sets of arguments once."""
    return {name.split()[0] for name in DAEMON}


async def read_by(connection: asyncpg.Connection, statement: str) -> Reading:
    """Runs a statement, undoes it, and tells what it read; functions that it calls included."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        before = await rows_read(connection)
        text = await connection.fetchval(f"explain (analyze, buffers, timing off, format json) {statement}")
        after = await rows_read(connection)
    finally:
        await transaction.rollback()
    (explained,) = json.loads(text)
    plan = explained["Plan"]
    sequential = {name for name, (seq, _) in after.items() if seq > before.get(name, (0, 0))[0]}
    scanned = {node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"}
    return Reading(
        rows=sum(map(sum, after.values())) - sum(map(sum, before.values())),
        pages=plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
        sequential=tuple(sorted(scanned | sequential)),
    )


async def rows_read(connection: asyncpg.Connection) -> dict[str, tuple[int, int]]:
    """How many rows of each table the transaction has read: from end to end, and through indexes."""
    return {row["relname"]: (row["seq"], row["idx"]) for row in await connection.fetch(READ)}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All nodes of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


class Sessions:
    """A daemon's connection with every statement prepared, and an app's."""

    def __init__(self, daemon: asyncpg.Connection, app: asyncpg.Connection, known: dict[str, str]) -> None:
        self._daemon = daemon
        self._app = app
        self._known = known

    @classmethod
    async def open(cls, connect: Connect, url: str, *, plan_cache_mode: str = "auto") -> Sessions:
        """Connects and prepares."""
        daemon = await connect(url, server_settings={**SESSION_SETTINGS, "plan_cache_mode": plan_cache_mode})
        app = await connect(url, server_settings={"plan_cache_mode": plan_cache_mode})
        for name in statements():
            await daemon.execute(f"prepare {name} as {query(name)}")
        rows = await app.fetch(
            "select split_part(job_key, '-', 1) as kind, string_agg(id::text, ',' order by id) as ids "
            "from slayq.job where job_key not like 'crowd-%' group by kind"
        )
        sessions = cls(daemon, app, {row["kind"]: row["ids"] for row in rows})
        await sessions.readings()  # the first call of a function reads the catalogues, too
        return sessions

    async def readings(self) -> dict[str, Reading]:
        """What each hot statement reads."""
        daemon = {
            name: await read_by(self._daemon, self._filled(f"execute {name.split()[0]}({arguments})"))
            for name, arguments in DAEMON.items()
        }
        return daemon | {name: await read_by(self._app, self._filled(call)) for name, call in APP.items()}

    def _filled(self, statement: str) -> str:
        for kind, numbers in self._known.items():
            statement = statement.replace(f"<{kind}>", f"'{{{numbers}}}'::bigint[]")
        return statement
