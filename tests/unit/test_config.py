"""slay-config.json: what loads, and that each mistake is told with its place and what to write there."""

from __future__ import annotations

from math import e
from typing import Any

import pytest
from pydantic import ValidationError

from slayq_server.config import parse, parse_text, pools
from slayq_server.engine.address_guard import AddressGuard
from slayq_server.engine.backoff import BackoffPolicy
from slayq_server.errors import ConfigurationError

ORIGINAL = """{"queues": {"mail": {"concurrency": 4},
            "messaging": {"concurrency": 6, "alias": ["dispatch", "ready"]},
            "general": {"concurrency": 10}}}"""


def queue(**settings: Any) -> dict[str, Any]:
    """A file with one queue, `mail`."""
    return {"queues": {"mail": {"concurrency": 1, **settings}}}


def entry(**settings: Any) -> dict[str, Any]:
    """A file with one schedule."""
    good = {"id": "nightly", "cron": "30 2 * * *", "event": "report/nightly", "queue": "mail"}
    return {**queue(), "cron": [{**good, **settings}]}


def section(name: str, **settings: Any) -> dict[str, Any]:
    """A file with a section besides its queues."""
    return {**queue(), name: settings}


def problems(document: object) -> list[str]:
    """All that is wrong with a document."""
    with pytest.raises(ConfigurationError) as caught:
        parse(document)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return list(caught.value.problems)


# ── What loads ──


def test_a_config_of_the_original_loads_unchanged() -> None:
    """The sample of protocol v1: three pools, the aliases with the queue whose concurrency they share."""
    config = parse_text(ORIGINAL)
    assert [
        ("mail", ("mail",), 4),
        ("messaging", ("messaging", "dispatch", "ready"), 6),
        ("general", ("general",), 10),
    ] == [(pool.name, pool.names, pool.config.concurrency) for pool in pools(config)]


def test_defaults() -> None:
    """What a file does not say, in seconds where it is a duration."""
    config = parse({"queues": {"mail": {"concurrency": 4}}})
    assert {
        "concurrency": 4,
        "alias": (),
        "scope": "daemon",
        "timeout": 300.0,
        "connect_timeout": 10.0,
        "backoff": {"base": e, "factor": e, "cap": 10, "max": None, "jitter": 0.1},
        "max_attempts": None,
        "strict": False,
        "paused": False,
        "not_found_is_done": False,
    } == config.queues["mail"].model_dump()
    assert {
        "cron": (),
        "callbacks": {
            "allow": (),
            "deny": (),
            "limits": {"response_bytes": 65_536, "retry_after_max": 86_400.0},
            "breaker": {"failures": 10, "max_pause": 30.0},
        },
        "retention": {"done": None, "dead": 30 * 86_400.0},
        "http": {"bind": "127.0.0.1", "port": 8288, "tokens": ()},
        "database": {
            "pool_size": 4,
            "poll_only": False,
            "listen_url": None,
            "poll_interval": 1.0,
            "application_name": "slayq-server",
        },
        "grants": {"roles": ()},
        "worker": {"lease": 15.0, "renew": 5.0, "name": None},
        "grace": 30.0,
        "forbidden_flags": (),
    } == config.model_dump(exclude={"queues"})


def test_a_back_off_is_handed_on_as_the_engines_policy() -> None:
    """Written as an object with durations, held as a BackoffPolicy."""
    config = parse(queue(backoff={"base": "500ms", "factor": 2, "max": "1m", "jitter": 0}))
    assert BackoffPolicy(base=0.5, factor=2, cap=10, max=60, jitter=0) == config.queues["mail"].backoff
    assert BackoffPolicy.default() == parse(queue()).queues["mail"].backoff


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(30, 30.0), (0.5, 0.5), ("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("1.5h", 5400.0), ("2 days", 172_800.0)],
)
def test_a_duration_is_seconds_or_a_text_with_a_unit(written: object, seconds: float) -> None:
    """A bare number is seconds."""
    assert seconds == parse(queue(timeout=written)).queues["mail"].timeout


def test_a_single_alias_needs_no_list() -> None:
    """A text is a list of one."""
    assert ("exports",) == parse(queue(alias="exports")).queues["mail"].alias


@pytest.mark.parametrize("off", [False, 0, None])
def test_history_is_switched_off_by_false_zero_or_null(off: object) -> None:
    """All three mean none."""
    assert parse(section("retention", done=off)).retention.done is None
    assert parse(section("retention", done="7 days")).retention.done == 604_800.0


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        ("HTTPS://App.Example.COM:443", "https://app.example.com"),
        ("http://example.com:80", "http://example.com"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("http://example.com.", "http://example.com"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("http://my_service:3000", "http://my_service:3000"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_origins_are_put_in_their_normal_form(written: str, normal: str) -> None:
    """Lower case, without the scheme's own port: so that two spellings are one origin. The guard takes each."""
    callbacks = parse(section("callbacks", allow=[written], deny=[written])).callbacks
    assert ((normal,), (normal,)) == (callbacks.allow, callbacks.deny)
    guard = AddressGuard(callbacks.allow)
    assert normal == guard.check_url(f"{normal}/slayq").origin


@pytest.mark.parametrize(
    ("written", "normal"),
    [("10.0.0.0/8", "10.0.0.0/8"), ("192.0.2.7", "192.0.2.7/32"), ("FD00::/8", "fd00::/8"), ("::1", "::1/128")],
)
def test_networks_may_be_denied(written: str, normal: str) -> None:
    """Networks and single addresses, which the guard takes, too."""
    deny = parse(section("callbacks", deny=[written])).callbacks.deny
    assert (normal,) == deny
    AddressGuard(deny=deny)


@pytest.mark.parametrize(
    ("bind", "normal"), [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("0:0::1", "::1"), ("localhost", "localhost")]
)
def test_bind_takes_addresses_and_names(bind: str, normal: str) -> None:
    """Of both families, without brackets."""
    assert normal == parse(section("http", bind=bind)).http.bind


def test_a_configuration_cannot_be_changed() -> None:
    """Frozen: what a part has read stays true until the next reload."""
    config = parse(queue())
    with pytest.raises(ValidationError, match="frozen"):
        config.grace = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.queues["mail"].concurrency = 2  # type: ignore[misc]


def test_a_schedule_may_use_an_alias_and_any_object_as_data() -> None:
    """`data` goes through as it is."""
    document = entry(queue="letters", data={"a": [1, {"b": None}], "ü": "\u2028"})
    document["queues"]["mail"]["alias"] = "letters"
    (schedule,) = parse(document).cron
    assert ("letters", {"a": [1, {"b": None}], "ü": "\u2028"}) == (schedule.queue, schedule.data)
    assert ("last", 3600.0, 0, None, None, None) == (
        schedule.catch_up,
        schedule.catch_up_window,
        schedule.priority,
        schedule.max_attempts,
        schedule.job_key,
        schedule.url,
    )


# ── What does not ──


@pytest.mark.parametrize(
    ("concurrency", "why"),
    [
        (0, "must be a whole number of at least 1, not 0"),
        (-1, "must be a whole number of at least 1, not -1"),
        ("3", 'must be a whole number of at least 1, not "3"'),
        (2.5, "must be a whole number of at least 1, not 2.5"),
        (True, "must be a whole number of at least 1, not true"),
        (None, "must be a whole number of at least 1, not null"),
        ([4], "must be a whole number of at least 1, not a list"),
        (10_001, "must be a whole number of at most 10000, not 10001"),
    ],
)
def test_concurrency_is_a_whole_number_from_1(concurrency: object, why: str) -> None:
    """The original starts with any of these without a word."""
    assert [f"queues.mail.concurrency: {why}"] == problems({"queues": {"mail": {"concurrency": concurrency}}})


def test_concurrency_must_be_there() -> None:
    """Nothing is guessed."""
    assert ["queues.mail.concurrency: is missing: give it a whole number of at least 1"] == problems(
        {"queues": {"mail": {}}}
    )


@pytest.mark.parametrize(
    ("document", "path", "hint"),
    [
        ({**queue(), "htttp": {}}, "htttp", 'did you mean "http"?'),
        ({**queue(), "Queues": {}}, "Queues", 'did you mean "queues"?'),
        (queue(concurency=2), "queues.mail.concurency", 'did you mean "concurrency"?'),
        (queue(maxAttempts=2), "queues.mail.maxAttempts", 'did you mean "max_attempts"?'),
        (queue(backoff={"jiter": 0}), "queues.mail.backoff.jiter", 'did you mean "jitter"?'),
        (entry(job_kye="x"), "cron[0].job_kye", 'did you mean "job_key"?'),
        (section("callbacks", limits={"response": 1}), "callbacks.limits.response", 'did you mean "response_bytes"?'),
        (section("http", adress="::"), "http.adress", "the settings here are bind, port, tokens"),
        ({**queue(), "port": 80}, "port", "did you mean http.port?"),
        (section("worker", **{"a b\x1b": 1}), 'worker."a b\\u001b"', "the settings here are lease, name, renew"),
    ],
)
def test_an_unknown_key_names_the_nearest(document: object, path: str, hint: str) -> None:
    """In each section; where none is near, what there is; where it belongs elsewhere, where."""
    (problem,) = problems(document)
    assert problem.startswith(f"{path}: is no setting")
    assert problem.endswith(hint)


def test_a_queue_named_like_a_setting_is_still_a_queue() -> None:
    """Names from the file are not mistaken for keys when a hint is looked for."""
    assert ['queues.backoff.concurency: is no setting: did you mean "concurrency"?'] == problems(
        {"queues": {"backoff": {"concurrency": 1, "concurency": 2}}}
    )


@pytest.mark.parametrize(
    ("queues", "expected"),
    [
        (
            {"a": {"concurrency": 1, "alias": ["x"]}, "b": {"concurrency": 1, "alias": ["x"]}},
            'queues.b.alias[0]: "x" is an alias of "a" already, so it cannot be one of "b"',
        ),
        (
            {"a": {"concurrency": 1, "alias": ["x", "x"]}},
            'queues.a.alias[1]: "x" stands twice among the aliases of "a": take one out',
        ),
        (
            {"a": {"concurrency": 1, "alias": "b"}, "b": {"concurrency": 1}},
            'queues.a.alias[0]: "b" is a queue of its own, so it cannot be an alias of "a"',
        ),
        (
            {"a": {"concurrency": 1, "alias": "a"}},
            'queues.a.alias[0]: "a" is the name of the queue itself: take the alias out',
        ),
    ],
)
def test_a_name_may_stand_for_one_queue_only(queues: object, expected: str) -> None:
    """An alias that is taken is refused, and both are named."""
    assert [expected] == problems({"queues": queues})


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (queue(alias=[""]), 'queues.mail.alias[0]: must be a queue\'s name of 1 to 128 characters, not ""'),
        (queue(alias=[1]), "queues.mail.alias[0]: must be a queue's name of 1 to 128 characters, not 1"),
        (queue(alias={}), "queues.mail.alias: must be a list [ … ], not an object"),
        (queue(alias="x" * 129), "queues.mail.alias[0]: must have at most 128 characters, not 129"),
        (queue(scope="clutser"), 'queues.mail.scope: must be "daemon" or "cluster", not "clutser": did you mean'),
        (queue(timeout=0), "queues.mail.timeout: must be at least 10 ms, not 0"),
        (queue(timeout=-5), "queues.mail.timeout: must be at least 10 ms, not -5"),
        (queue(timeout="8 days"), 'queues.mail.timeout: must be at most 7 days, not "8 days"'),
        (queue(timeout="300"), 'queues.mail.timeout: must have a unit, as "300s", or be a bare number, not "300"'),
        (queue(timeout="soon"), "queues.mail.timeout: must be a number of seconds, or a text such as"),
        (queue(timeout="-5m"), "queues.mail.timeout: must be a number of seconds, or a text such as"),
        (queue(timeout=True), "queues.mail.timeout: must be a number of seconds, or a text such as"),
        (queue(timeout=None), "queues.mail.timeout: must be a number of seconds, or a text such as"),
        (queue(timeout=float("nan")), "queues.mail.timeout: must be a number of seconds, or a text such as"),
        (queue(timeout=10**400), "queues.mail.timeout: must be at most 7 days, not 1000000000"),
        (queue(connect_timeout="2h"), 'queues.mail.connect_timeout: must be at most 1 hour, not "2h"'),
        (queue(max_attempts=0), "queues.mail.max_attempts: must be a whole number of at least 1, not 0"),
        (queue(max_attempts=32_768), "queues.mail.max_attempts: must be a whole number of at most 32767, not 32768"),
        (queue(strict="yes"), 'queues.mail.strict: must be true or false, not "yes"'),
        (queue(paused=1), "queues.mail.paused: must be true or false, not 1"),
        (queue(backoff="5m"), 'queues.mail.backoff: must be an object { … }, not "5m"'),
        (queue(backoff={"factor": 0.5}), "queues.mail.backoff.factor: must be a number from 1 to 100, not 0.5"),
        (queue(backoff={"jitter": 2}), "queues.mail.backoff.jitter: must be a number from 0 to 1, not 2"),
        (queue(backoff={"cap": 0}), "queues.mail.backoff.cap: must be a whole number of at least 1, not 0"),
        (queue(backoff={"base": "1d", "factor": 10}), "queues.mail.backoff: a job would wait up to"),
        (queue(backoff={"factor": 100, "cap": 9999}), "queues.mail.backoff: base * factor ** (cap - 1) is too large"),
        ({"queues": {"mail": 4}}, "queues.mail: must be an object { … }, not 4"),
        ({"queues": []}, "queues: must be an object { … }, not a list"),
        ({"queues": {}}, "queues: names no queue, so nothing would run: add one, as in"),
        ({}, "queues: is missing: give it an object { … }"),
        ({"queues": {"": {"concurrency": 1}}}, 'queues."": must be a queue\'s name of 1 to 128 characters, not ""'),
        ({"queues": {"@x": {"concurrency": 1}}}, 'queues."@x": must not begin with @, not "@x"'),
        ({"queues": {"a\nb": {"concurrency": 1}}}, 'queues."a\\nb": has a control character in its name: "a\\nb"'),
        (entry(id="a b"), 'cron[0].id: must be an id of letters, digits and _ . : / - such as "nightly-report", not'),
        (entry(id="function:a"), 'cron[0].id: must not begin with "function:": those are the schedules of functions'),
        (entry(id="x" * 129), "cron[0].id: must have at most 128 characters, not 129"),
        (entry(cron="* * * *"), "cron[0].cron: is no cron line: number of fields: the line has 4"),
        (entry(cron="61 * * * *"), "cron[0].cron: is no cron line: minute"),
        (entry(cron="0 0 30 2 *"), "cron[0].cron: is no cron line: "),
        (entry(cron="TZ=Europe/Pari 0 9 * * *"), "cron[0].cron: is no cron line: time zone"),
        (entry(cron=5), 'cron[0].cron: must be a cron line such as "30 2 * * *"'),
        (entry(queue="mial"), 'cron[0].queue: no queue and no alias is named "mial": did you mean "mail"?'),
        (entry(queue="video"), 'cron[0].queue: no queue and no alias is named "video": add it to queues, or name one'),
        (entry(url="localhost:3000"), "cron[0].url: must be an http or https URL such as"),
        (entry(url="http://a/b c"), "cron[0].url: must be an http or https URL such as"),
        (entry(url="http://"), "cron[0].url: must be an http or https URL such as"),
        (
            entry(url="http://a:b/?x=hunter2"),
            'cron[0].url: has a port that is no number from 1 to 65535: "http://a:b/?…"',
        ),
        (entry(event=""), "cron[0].event: must be an event's name such as"),
        (entry(data=[]), "cron[0].data: must be an object { … }, not a list"),
        (entry(priority=40_000), "cron[0].priority: must be a whole number of at most 32767, not 40000"),
        (entry(job_key="cron"), 'cron[0].job_key: must not be "cron": that is the key of the minute tick'),
        (entry(job_key="x" * 513), "cron[0].job_key: must have at most 512 characters, not 513"),
        (entry(catch_up="al"), 'cron[0].catch_up: must be "none", "last" or "all", not "al": did you mean "all"?'),
        (entry(catch_up_window=0), "cron[0].catch_up_window: must be at least 1 second, not 0"),
        ({**queue(), "cron": {}}, "cron: must be a list [ … ], not an object"),
        ({**queue(), "cron": [5]}, "cron[0]: must be an object { … }, not 5"),
        (section("callbacks", allow=["a.example"]), "callbacks.allow[0]: must be an origin such as"),
        (section("callbacks", allow=["ftp://a.example"]), "callbacks.allow[0]: must be an origin such as"),
        (
            section("callbacks", allow=["https://a.example/"]),
            "callbacks.allow[0]: must be an origin, which has no path",
        ),
        (section("callbacks", allow=["https://a.example/hook"]), "callbacks.allow[0]: must be an origin, which has no"),
        (section("callbacks", allow=["https://a.example?x"]), "callbacks.allow[0]: must be an origin, which has no"),
        (
            section("callbacks", allow=["https://*.example"]),
            "callbacks.allow[0]: has a host that is neither a name nor",
        ),
        (section("callbacks", allow=["http://0x7f.1"]), "callbacks.allow[0]: has a host that is neither a name nor"),
        (section("callbacks", allow=["http://127.1"]), "callbacks.allow[0]: has a host that is neither a name nor"),
        (section("callbacks", allow=["http://a\\b"]), "callbacks.allow[0]: must be an origin such as"),
        (
            section("callbacks", allow=["http://a:0"]),
            "callbacks.allow[0]: has a port that is no number from 1 to 65535",
        ),
        (section("callbacks", allow=["http://a:99999"]), "callbacks.allow[0]: has a port that is no number from 1 to"),
        (section("callbacks", allow=["http://[::1"]), "callbacks.allow[0]: must be an origin such as"),
        (section("callbacks", allow=["http://[v1.x]"]), "callbacks.allow[0]: has no IPv6 address in its brackets"),
        (section("callbacks", allow=["http://bücher.example"]), "callbacks.allow[0]: must have its host in ASCII"),
        (section("callbacks", allow="http://a"), 'callbacks.allow: must be a list [ … ], not "http://a"'),
        (
            section("callbacks", deny=["10.1.0.0/8"]),
            'callbacks.deny[0]: must be a network\'s own address: "10.0.0.0/8"',
        ),
        (section("callbacks", deny=["10/8/"]), "callbacks.deny[0]: must be an origin such as"),
        (section("callbacks", limits={"response_bytes": 0}), "callbacks.limits.response_bytes: must be a whole number"),
        (section("retention", dead=0), "retention.dead: must be at least 1 second, not 0"),
        (section("retention", done=True), "retention.done: must be a number of seconds"),
        (section("http", port=70_000), "http.port: must be a whole number of at most 65535, not 70000"),
        (section("http", bind="127.0.0.1:80"), "http.bind: must be an address such as"),
        (section("http", bind="0x7f.1"), "http.bind: must be an address such as"),
        (section("http", tokens=[""]), "http.tokens[0]: is empty: give it a token"),
        (section("database", pool_size=33), "database.pool_size: must be a whole number of at most 32, not 33"),
        (section("database", application_name="ü"), "database.application_name: must be plain ASCII"),
        (section("grants", roles=["public"]), "grants.roles[0]: must not be PUBLIC"),
        (section("grants", roles=["ü" * 32]), "grants.roles[0]: must have at most 63 bytes, as names in Postgres do"),
        (section("worker", renew=4, lease=6), "worker: renew must be at most half of lease (3 seconds), not 4 seconds"),
        (section("worker", renew=10), "worker.renew: must be at most 5 seconds, not 10"),
        ({**queue(), "grace": "2 days"}, 'grace: must be at most 1 day, not "2 days"'),
        ({**queue(), "forbidden_flags": ["a", ""]}, 'forbidden_flags[1]: must be a flag, not ""'),
        ([], "must be an object { … }, not a list"),
        (None, "must be an object { … }, not null"),
    ],
)
def test_each_mistake_is_told_with_its_place(document: object, expected: str) -> None:
    """One line: where, what is wanted, what was found."""
    (problem,) = problems(document)
    assert expected == problem[: len(expected)]


def test_a_schedules_id_is_its_own() -> None:
    """The second of two is refused, and the first named."""
    document = entry()
    document["cron"].append(document["cron"][0])
    assert ['cron[1].id: "nightly" is the id of cron[0] already'] == problems(document)


def test_all_problems_are_told_at_once() -> None:
    """Those of single settings and those between them, each on a line, after the file's name."""
    document = {
        "queues": {"mail": {"concurrency": 0, "alias": "general"}, "general": {"concurrency": 1, "timeout": "x"}},
        "cron": [5, {"id": "a", "cron": "* * * * *", "event": "e", "queue": "vidoe"}],
        "htp": {},
    }
    with pytest.raises(ConfigurationError) as caught:
        parse(document, "slay-config.json")
    first, *lines = str(caught.value).splitlines()
    assert "slay-config.json has 6 problems:" == first
    assert [
        "  cron[0]",
        "  cron[1].queue",
        "  htp",
        "  queues.general.timeout",
        "  queues.mail.alias[0]",
        "  queues.mail.concurrency",
    ] == sorted(line.partition(": ")[0] for line in lines)
    assert 78 == caught.value.exit_code


@pytest.mark.parametrize(
    "document",
    [
        section("callbacks", allow=["https://user:hunter2@a.example"]),
        section("callbacks", allow=["user:hunter2@a.example"]),
        section("callbacks", allow=["https://user:hunter2@a.example:99999/x"]),
        entry(url="https://user:hunter2@a.example"),
        entry(url="user:hunter2@a.example"),
        section("database", listen_url="postgres://user:hunter2@h:x/d"),
        section("database", listen_url="postgres://user:hunt#er2@h/d"),
        section("database", listen_url="postgres://user:hunter2/@h/d"),
        section("database", listen_url="postgres://user:[hunter2@h/d"),
        section("database", listen_url="mysql://user:hunter2@h/d"),
        section("database", listen_url="postgres://user:hunter2 @h/d"),
        section("database", listen_url="postgres://u:p@h/d?hunter2"),
        section("database", listen_url=["hunter2"]),
        section("database", listen_url="hunter2" * 1000),
        section("http", tokens=["hunter2\0"]),
        section("http", tokens={"hunter2": 1}),
        section("http", tokens="hunter2") | {"http": {"tokens": [["hunter2"]]}},
    ],
)
def test_no_error_shows_what_may_be_secret(document: object) -> None:
    """Neither the message nor what caused it; a hint says what to do instead."""
    with pytest.raises(ConfigurationError) as caught:
        parse(document)
    chain: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    told = " ".join(f"{each} {each!r}" for each in chain)
    assert "hunter2" not in told
    assert "hunt" not in told


def test_secrets_are_not_in_a_configurations_repr_or_dump() -> None:
    """Tokens and the listener's address are held hidden."""
    config = parse({**section("http", tokens=["hunter2"]), "database": {"listen_url": "postgres://u:hunter2@h/d"}})
    assert "hunter2" == config.http.tokens[0].get_secret_value()
    for shown in (repr(config), str(config.http), config.model_dump_json(), repr(config.model_dump())):
        assert "hunter2" not in shown
