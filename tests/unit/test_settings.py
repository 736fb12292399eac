"""The environment: SLAY_Q_… variables and `.env`, what goes over what, and that no secret is ever shown."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from slayq_server import settings
from slayq_server.config import effective, parse
from slayq_server.config.addresses import without_password
from slayq_server.errors import ConfigurationError
from slayq_server.settings import Settings, unknown_variables

if TYPE_CHECKING:
    from pathlib import Path

URL = "postgresql://app:hunter2@db.example:5432/app"
QUEUES = {"queues": {"mail": {"concurrency": 1}}}
NEEDED = {"SLAY_Q_DATABASE_URL": URL, "SLAY_Q_SECRET": "hunter2"}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours is set, and the working directory is empty."""
    for name in list(os.environ):
        if name.upper().startswith("SLAY"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def set_all(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Sets variables."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def problems() -> list[str]:
    """What is wrong with the environment; nowhere in the error is there a secret."""
    with pytest.raises(ConfigurationError) as caught:
        settings.load()
    assert "hunter" not in "".join(traceback.format_exception(caught.value))
    return list(caught.value.problems)


def secrets(given: Settings) -> list[str]:
    """The secrets in the clear, newest first."""
    return [secret.get_secret_value() for secret in given.secrets]


def test_what_is_needed_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database and the secret; everything else is left to the file and the defaults."""
    set_all(monkeypatch, **NEEDED)
    assert Settings(SecretStr(URL), (SecretStr("hunter2"),), log_level="info", log_format="auto") == settings.load()


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the type it has; blanks round it do not count; a bare number is seconds."""
    set_all(
        monkeypatch,
        **NEEDED,
        SLAY_Q_CRON_URL="http://localhost:3000/slayq",
        SLAY_Q_LISTEN_URL="postgres://app:hunter2@direct/app",
        SLAY_Q_HTTP_BIND="0.0.0.0",
        SLAY_Q_HTTP_PORT=" 80 ",
        SLAY_Q_HTTP_TOKENS='["new", "old"]',
        SLAY_Q_LOG_LEVEL="WARNING",
        SLAY_Q_LOG_FORMAT="pretty",
        SLAY_Q_GRACE="45",
        SLAY_Q_POLL_ONLY="yes",
        SLAY_Q_POOL_SIZE="8",
    )
    assert (
        Settings(
            database_url=SecretStr(URL),
            secrets=(SecretStr("hunter2"),),
            cron_url="http://localhost:3000/slayq",
            listen_url=SecretStr("postgres://app:hunter2@direct/app"),
            http_bind="0.0.0.0",
            http_port=80,
            http_tokens=(SecretStr("new"), SecretStr("old")),
            log_level="warning",
            log_format="pretty",
            grace=45.0,
            poll_only=True,
            pool_size=8,
        )
        == settings.load()
    )


def test_what_is_missing_is_named() -> None:
    """All of it at once, with what to set."""
    assert [
        "SLAY_Q_SECRET: is not set, or empty: set it to the secret that the app has, too",
        "SLAY_Q_DATABASE_URL: is not set, or empty: set it to postgresql://user:password@host:5432/database",
    ] == problems()


@pytest.mark.parametrize("empty", ["", " ", "\t "])
def test_an_empty_secret_is_none(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """Nothing is ever signed with it."""
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, SLAY_Q_SECRET=empty)
    (problem,) = problems()
    assert problem.startswith("SLAY_Q_SECRET: is ")
    assert "empty" in problem


@pytest.mark.parametrize("array", ["[]", '[""]', '["a", " "]', "[1]", '["a", null]'])
def test_an_array_of_secrets_has_texts_that_are_not_empty(monkeypatch: pytest.MonkeyPatch, array: str) -> None:
    """Each of them."""
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, SLAY_Q_SECRET=array)
    (problem,) = problems()
    assert problem.startswith("SLAY_Q_SECRET: ")


def test_commands_that_need_less_ask_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` needs neither, `migrate` only the database, which may come from the command line."""
    nothing = settings.load(need_database=False, need_secrets=False)
    assert (SecretStr(""), ()) == (nothing.database_url, nothing.secrets)
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL)
    assert URL == settings.load(need_secrets=False).database_url.get_secret_value()
    given = settings.load(need_secrets=False, database_url="postgres://other/db")
    assert "postgres://other/db" == given.database_url.get_secret_value()
    assert URL == settings.load(need_secrets=False, database_url=None).database_url.get_secret_value()


@pytest.mark.parametrize("name", ["SLAY_Q_SECRET", "SLAY_Q_WORKER_SECRET"])
def test_a_secret_is_one_text_or_an_array_newest_first(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By either name. A text is taken as it is, blanks included; what an array repeats counts once."""
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, **{name: " a,b "})
    assert [" a,b "] == secrets(settings.load())
    monkeypatch.setenv(name, ' ["new", "old", "new"]')
    assert ["new", "old"] == secrets(settings.load())


def test_a_secret_that_begins_like_an_array_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped array must not become the secret that everything is signed with."""
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, SLAY_Q_SECRET='["hunter2", hunter3]')
    assert [
        'SLAY_Q_SECRET: begins with [ but is no JSON array: write ["new", "old"], or for one such value ["[…"]'
    ] == problems()
    monkeypatch.setenv("SLAY_Q_SECRET", '["[hunter2"]')
    assert ["[hunter2"] == secrets(settings.load())


def test_two_secrets_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under both names: which one the app has cannot be known. The same one twice is fine."""
    set_all(monkeypatch, **NEEDED, SLAY_Q_WORKER_SECRET="hunter3")
    assert ["SLAY_Q_SECRET and SLAY_Q_WORKER_SECRET have different secrets: set only one of them"] == problems()
    monkeypatch.setenv("SLAY_Q_WORKER_SECRET", "hunter2")
    assert ["hunter2"] == secrets(settings.load())


def test_too_many_secrets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs a signature on every request."""
    array = "[" + ", ".join(f'"hunter{number}"' for number in range(11)) + "]"
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, SLAY_Q_SECRET=array)
    assert ["SLAY_Q_SECRET: must have 1 to 10 values, not 11"] == problems()


def test_secrets_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One a line, newest first; blank lines and what editors leave at the ends do not count."""
    path = tmp_path / "secrets"
    path.write_bytes("new ü\r\n\n  old\nnew ü".encode())
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, SLAY_Q_SECRET_FILE=str(path))
    assert ["new ü", "old"] == secrets(settings.load())
    set_all(monkeypatch, SLAY_Q_SECRET="hunter2")
    assert ["SLAY_Q_SECRET and SLAY_Q_SECRET_FILE have different secrets: set only one of them"] == problems()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "is not there: create it, or correct the path"),
        (b"", "must have 1 to 10 secrets, one a line, not 0"),
        (b" \n\n", "must have 1 to 10 secrets, one a line, not 0"),
        (b"\n".join(b"hunter%d" % number for number in range(11)), "must have 1 to 10 secrets, one a line, not 11"),
        (b"hunter2\xff", "is no text file of one secret a line"),
        (b"hunter2\0", "is no text file of one secret a line"),
        (b"hunter2" * 10_000, "is no text file of one secret a line"),
    ],
)
def test_a_secret_file_that_is_no_good(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, why: str
) -> None:
    """The path is told, and what is wrong; nothing of what is in it."""
    path = tmp_path / "secrets"
    if content is not None:
        path.write_bytes(content)
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, SLAY_Q_SECRET_FILE=str(path))
    assert [f"SLAY_Q_SECRET_FILE: {path} {why}"] == problems()


def test_a_folder_as_secret_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a traceback."""
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=URL, SLAY_Q_SECRET_FILE=str(tmp_path))
    (problem,) = problems()
    assert "cannot be read (Is a directory): let this user read it" in problem


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://u:hunter2@h/d", "must begin with postgresql:// or postgres://"),
        ("hunter2", "must begin with postgresql:// or postgres://"),
        ("postgresql:u:hunter2@h/d", "must have // after its scheme"),
        ("postgres://u:hun#ter2@h/d", "holds a # or a second @: percent-encode"),
        ("postgres://u:hun@ter2@h/d", "holds a # or a second @: percent-encode"),
        ("postgres://u:hunter2/x@h/d", "has a port that is not 1 to 65535"),
        ("postgres://u:hunter2?x@h/d", "has a port that is not 1 to 65535"),
        ("postgres://u:[hunter2@h/d", "is no URL"),
        ("postgres://u:hunter2@h:0/d", "has a port that is not 1 to 65535"),
        ("postgres://u:hunter2@h:x/d", "has a port that is not 1 to 65535"),
        ("postgres://u:hunter2@h/d\n", "holds a space or a control character"),
        ("postgres://u:hunter 2@h/d", "holds a space or a control character"),
        ("postgres://u:p@h/d?hunter2", "has a query that is not of the form"),
        ("postgres://" + "hunter2" * 1000, "must have at most 4096 characters"),
    ],
)
@pytest.mark.parametrize("name", ["SLAY_Q_DATABASE_URL", "SLAY_Q_LISTEN_URL"])
def test_a_database_url_that_is_none(monkeypatch: pytest.MonkeyPatch, name: str, url: str, why: str) -> None:
    """Told without any of it: its password may be anywhere in what is mistyped."""
    set_all(monkeypatch, **NEEDED)
    set_all(monkeypatch, **{name: url})
    (problem,) = problems()
    assert problem.startswith(f"{name}: {why}")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "postgres://h/d",
            "postgresql://u@h/d",
            "POSTGRES://h/d",
            "postgres:///d?host=/run/postgresql",
            "postgres://",
        ),
        *("postgres://u:p%40%2F%23@h:5432/d?sslmode=require", "postgres://u:p@[::1]:5432/d", "postgres://h1:1,h2:2/d"),
    ],
)
def test_database_urls_that_are_fine(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Taken as they stand."""
    set_all(monkeypatch, SLAY_Q_DATABASE_URL=url, SLAY_Q_SECRET="x")
    assert url == settings.load().database_url.get_secret_value()


def test_a_database_url_is_shown_without_its_password() -> None:
    """And without its query, which may hold one."""
    assert "postgresql://app@db.example:5432/app" == without_password(f"{URL}?password=hunter2")
    assert "postgres://h/d" == without_password("postgres://:hunter2@h/d")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("SLAY_Q_HTTP_PORT", "http", 'must be a whole number of at least 0, not "http"'),
        ("SLAY_Q_HTTP_PORT", "80.5", 'must be a whole number of at least 0, not "80.5"'),
        ("SLAY_Q_HTTP_PORT", "65536", "must be a whole number of at most 65535, not 65536"),
        ("SLAY_Q_HTTP_PORT", "٨٠", 'must be a whole number of at least 0, not "٨٠"'),
        ("SLAY_Q_HTTP_BIND", "127.0.0.1:80", "must be an address such as"),
        ("SLAY_Q_HTTP_TOKENS", " ", "is empty: give it a token"),
        (
            "SLAY_Q_LOG_LEVEL",
            "warn",
            'must be "debug", "info", "warning" or "error", not "warn": did you mean "warning"?',
        ),
        ("SLAY_Q_LOG_FORMAT", "text", 'must be "json", "pretty" or "auto", not "text"'),
        ("SLAY_Q_GRACE", "-4", "must be a number of seconds, or a text such as"),
        ("SLAY_Q_GRACE", "soon", "must be a number of seconds, or a text such as"),
        ("SLAY_Q_GRACE", "2 days", 'must be at most 1 day, not "2 days"'),
        ("SLAY_Q_POLL_ONLY", "maybe", 'must be true or false, not "maybe"'),
        ("SLAY_Q_POOL_SIZE", "1", "must be a whole number of at least 2, not 1"),
        ("SLAY_Q_POOL_SIZE", "33", "must be a whole number of at most 32, not 33"),
        ("SLAY_Q_CRON_URL", "localhost/slayq", "must be an http or https URL such as"),
        ("SLAY_Q_CRON_URL", "http://u:hunter2@h/slayq", "must be an http or https URL such as"),
        ("SLAY_Q_SECRET", "a\udcffb", "holds what is no valid Unicode: write it anew"),
    ],
)
def test_a_value_that_is_none_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    """In the same words as for the file."""
    set_all(monkeypatch, **NEEDED)
    set_all(monkeypatch, **{name: value})
    (problem,) = problems()
    assert f"{name}: {why}" == problem[: len(name) + 2 + len(why)]


def test_a_dotenv_file_is_read_and_the_environment_counts_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`.env` in the working directory, which may have variables of others in it. An empty variable hides nothing."""
    (tmp_path / ".env").write_text(
        f'NODE_ENV=production\nexport SLAY_Q_DATABASE_URL=\'{URL}\'\nSLAY_Q_SECRET=["new","old"]\n'
        "SLAY_Q_GRACE=1m\nSLAY_Q_POOL_SIZE=2\n"
    )
    set_all(monkeypatch, SLAY_Q_GRACE="2m", SLAY_Q_POOL_SIZE="")
    loaded = settings.load()
    assert (["new", "old"], 120.0, 2) == (secrets(loaded), loaded.grace, loaded.pool_size)
    assert URL == loaded.database_url.get_secret_value()


def test_a_dotenv_file_that_is_no_text(tmp_path: Path) -> None:
    """Not a traceback."""
    (tmp_path / ".env").write_bytes(b"SLAY_Q_SECRET=hunter2\xff")
    assert [".env: is not UTF-8: save it as UTF-8"] == problems()
    assert [] == unknown_variables({})


def test_no_secret_is_in_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings may be logged by mistake."""
    set_all(monkeypatch, **NEEDED, SLAY_Q_HTTP_TOKENS="hunter2", SLAY_Q_LISTEN_URL=URL)
    assert "hunter2" not in repr(settings.load())
    assert "hunter2" not in str(settings.load())


# ── Over the file ──


def test_the_environment_goes_over_the_file_and_the_file_over_the_defaults() -> None:
    """Setting by setting."""
    config = parse({**QUEUES, "http": {"bind": "::1", "port": 1}, "database": {"pool_size": 2}, "grace": 5})
    given = Settings(SecretStr(URL), (SecretStr("x"),), http_port=2, http_tokens=(SecretStr("t"),), poll_only=False)
    changed = effective(config, given)
    assert ("::1", 2, (SecretStr("t"),)) == (changed.http.bind, changed.http.port, changed.http.tokens)
    assert (2, False, 5.0) == (changed.database.pool_size, changed.database.poll_only, changed.grace)
    every = Settings(
        SecretStr(URL),
        (SecretStr("x"),),
        http_bind="0.0.0.0",
        listen_url=SecretStr("postgres://h/d"),
        pool_size=3,
        grace=7.0,
    )
    changed = effective(config, every)
    assert ("0.0.0.0", 1) == (changed.http.bind, changed.http.port)
    assert (SecretStr("postgres://h/d"), 3, 7.0) == (
        changed.database.listen_url,
        changed.database.pool_size,
        changed.grace,
    )


def test_an_environment_that_sets_nothing_changes_nothing() -> None:
    """Nor is anything lost on the way."""
    config = parse({**QUEUES, "database": {"listen_url": "postgres://h/d"}, "http": {"tokens": ["t"]}})
    assert config == effective(config, Settings(SecretStr(URL), (SecretStr("x"),)))


def test_a_schedule_without_a_url_posts_to_the_cron_url() -> None:
    """If there is none either, that is an error for each such schedule."""
    entry = {"cron": "* * * * *", "event": "e", "queue": "mail"}
    config = parse({**QUEUES, "cron": [{"id": "a", **entry}, {"id": "b", "url": "http://b/", **entry}]})
    with pytest.raises(ConfigurationError) as caught:
        effective(config, Settings(SecretStr(URL), (SecretStr("x"),)))
    assert ("cron[0].url: is missing: set it, or SLAY_Q_CRON_URL for all schedules without one",) == (
        caught.value.problems
    )
    changed = effective(config, Settings(SecretStr(URL), (SecretStr("x"),), cron_url="http://c/"))
    assert ["http://c/", "http://b/"] == [schedule.url for schedule in changed.cron]


@pytest.mark.parametrize(
    ("database", "expected"),
    [
        ({}, True),
        ({"poll_only": True}, False),
        ({"listen_url": URL}, True),
        ({"poll_only": True, "listen_url": URL}, True),
    ],
)
def test_who_listens(database: dict[str, object], expected: bool) -> None:
    """Everybody but who is behind a pooler in transaction mode and has no other address."""
    assert expected == parse({**QUEUES, "database": database}).database.listens


def test_the_environment_may_give_an_address_to_listen_on() -> None:
    """The file goes through a pooler, the environment listens past it."""
    config = parse({**QUEUES, "database": {"poll_only": True}})
    changed = effective(config, Settings(SecretStr(URL), (SecretStr("x"),), listen_url=SecretStr(URL)))
    assert (False, True) == (config.database.listens, changed.database.listens)


# ── Typing errors ──


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SLAY_Q_PORT", "SLAY_Q_HTTP_PORT"),
        ("SLAY_Q_DATABSE_URL", "SLAY_Q_DATABASE_URL"),
        ("SLAY_Q_SECRETS", "SLAY_Q_SECRET"),
        ("SLAYQ_SECRET", "SLAY_Q_SECRET"),
        ("SLAY_QSECRET", "SLAY_Q_SECRET"),
        ("SLAY_Q_LOGLEVEL", "SLAY_Q_LOG_LEVEL"),
    ],
)
def test_a_variable_that_is_none_is_warned_of(name: str, meant: str) -> None:
    """With the one that was meant."""
    assert [f"{name} is no setting, and does nothing: did you mean {meant}?"] == unknown_variables({name: "hunter2"})


def test_a_variable_that_is_like_none_lists_all() -> None:
    """So that the right one can be picked."""
    (warning,) = unknown_variables({"SLAY_Q_XYZZY": "hunter2"})
    assert all(variable in warning for variable in settings.VARIABLES)
    assert "hunter2" not in warning


def test_variables_of_others_and_our_own_are_not_warned_of(tmp_path: Path) -> None:
    """In any case of letters. Those of a `.env` file are looked at, too."""
    ours = dict.fromkeys([*settings.VARIABLES, "slay_q_secret"], "")
    assert [] == unknown_variables({**ours, "PATH": "", "SLAYER": "", "MY_SLAY_Q_SECRET": ""})
    (tmp_path / ".env").write_text("SLAY_Q_GRAC=1\nOTHER=2\n")
    (warning,) = unknown_variables({})
    assert "SLAY_Q_GRAC is no setting, and does nothing: did you mean SLAY_Q_GRACE?" == warning
