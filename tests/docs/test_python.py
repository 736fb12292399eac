"""Every block of Python in the documentation does what it is there for: it parses, runs, and type-checks."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import MARKS, PAGES, ROOT, blocks_of, pages_with
from tests.docs.running import compiled, importable, page_module, run
from tests.support import django_project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import asyncpg

WITH_DATABASE = {"sending.md"}
ELSEWHERE = {"rpc.md", "supabase.md"}
"""Tested, types apart, by the tests of what they are about."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an app has."""
    monkeypatch.setenv("SLAY_Q_SECRET", "a-secret-for-the-pages")
    monkeypatch.setenv("SLAY_Q_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")


def test_marks_are_known() -> None:
    """A mistyped one would let a block pass that is wrong."""
    marks = {block.mark for page in PAGES for block in blocks_of(page, "python")}
    assert marks <= MARKS


@pytest.mark.parametrize("page", [page for page in pages_with("python") if page not in WITH_DATABASE])
async def test_blocks_run(page: str, tmp_path: Path) -> None:
    """From the first to the last, as a reader would type them."""
    with importable(page, tmp_path) as module:
        for block in blocks_of(page, "python"):
            compiled(block)
            if block.mark is None:
                await run(block, module)


async def test_the_tests_of_testing_md_pass(tmp_path: Path) -> None:
    """Each that a reader is shown."""
    with importable("testing.md", tmp_path):
        shown: Any = importlib.import_module("test_shop")
        tests = [value for name, value in vars(shown).items() if name.startswith("test_")]
        assert tests
        for test in tests:
            await test()


async def test_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str, connection: asyncpg.Connection
) -> None:
    """sending.md against Postgres: each way to send in a transaction writes the row and creates the run."""
    monkeypatch.setenv("SLAY_Q_DATABASE_URL", database_url)
    (table,) = [block.code for block in blocks_of("sending.md", "sql") if block.code.startswith("create table")]
    await connection.execute(table)
    django_on(database_url, monkeypatch)
    with importable("sending.md", tmp_path) as module:
        shop: Any = importlib.import_module("shop")
        await shop.sq.register()
        for block in blocks_of("sending.md", "python"):
            await run(block, module)
        sent = 5
        assert module.__dict__["run"] in await runs(connection)
        assert sent == len(await runs(connection))
        for name in ("with_asyncpg", "with_psycopg", "with_sqlalchemy", "with_django"):
            way: Any = sys.modules[name]
            for place in ("place", "place_async"):
                if hasattr(way, place):
                    order = shop.Order(order_id=f"{name}.{place}", email="ann@example.com")
                    if asyncio.iscoroutinefunction(getattr(way, place)):
                        await getattr(way, place)(order)
                    else:
                        await asyncio.to_thread(place_and_close, getattr(way, place), order)
                    sent += 1
                    assert sent == len(await runs(connection))
        assert sent - 5 == await connection.fetchval("select count(*) from orders")
        await shop.sq.close()
        way = sys.modules["with_sqlalchemy"]
        way.engine.dispose()
        await way.async_engine.dispose()
        for name in ("with_asyncpg", "with_psycopg", "with_sqlalchemy", "with_django", "with_rpc"):
            sys.modules.pop(name)
    for block in blocks_of("sending.md", "sql"):
        if not block.code.startswith("create table"):
            assert await connection.fetchval(block.code) in await runs(connection)


async def runs(connection: asyncpg.Connection) -> list[Any]:
    """The ids of all runs."""
    return [row[0] for row in await connection.fetch("select run_id from slayq.job where run_id is not null")]


def place_and_close(place: Callable[[Any], None], order: Any) -> None:
    """Calls it, and closes what Django has opened in this thread, which a request's end would do."""
    from django.db import connections

    place(order)
    connections.close_all()


def django_on(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has Django's default connection lead to a database; threads get one of their own each."""
    from django.db import connections

    django_project.set_up()
    parts = urlsplit(url)
    default = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": parts.port,
    }
    monkeypatch.setattr(connections, "settings", connections.configure_settings({"default": default}))


@pytest.fixture
def typed_pages(tmp_path: Path) -> list[Path]:
    """A package for each page, with its files as modules, and all its other blocks as one."""
    folders = []
    for page in pages_with("python"):
        if page in ELSEWHERE:
            continue
        folder = tmp_path / page_module(page)
        folder.mkdir()
        (folder / "__init__.py").touch()
        together = ""
        for block in blocks_of(page, "python"):
            if block.mark == "fragment":
                continue
            if block.module:
                (folder / f"{block.module}.py").write_text(in_package(block.code, page))
            else:
                together += "\n" * max(0, block.line - 1 - together.count("\n")) + in_package(block.code, page)
        (folder / f"{page_module(page)}.py").write_text(together)
        folders.append(folder)
    assert folders
    return folders


def test_types_by_mypy(typed_pages: list[Path]) -> None:
    """`mypy --strict` has nothing against any of it. Lines are those of the pages, but in files."""
    command = (sys.executable, "-m", "mypy", "--strict", "--disable-error-code=top-level-await", "--no-pretty")
    options = (f"--config-file={ROOT / 'pyproject.toml'}", f"--cache-dir={ROOT / '.mypy_cache' / 'docs'}")
    finished = subprocess.run(
        [*command, *options, "--explicit-package-bases", *map(str, typed_pages)],
        cwd=typed_pages[0].parent,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert (0, "") == (finished.returncode, finished.stderr), finished.stdout


@pytest.mark.long
def test_types_by_pyright(typed_pages: list[Path]) -> None:
    """Nor has pyright, but for `await` outside of functions, which a reader may type into an async shell."""
    folder = typed_pages[0].parent
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(folder)]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    report = json.loads(finished.stdout)
    assert report["summary"]["filesAnalyzed"] > len(typed_pages)
    found = [
        f"{each['file']}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in report["generalDiagnostics"]
        if each["severity"] == "error" and not each["message"].startswith('"await" allowed only')
    ]
    assert [] == found


def in_package(code: str, page: str) -> str:
    """Imports of the page's own files, by the name of the package that its files are in."""
    for block in blocks_of(page, "python"):
        if block.module:
            code = code.replace(f"from {block.module} import", f"from {page_module(page)}.{block.module} import")
    return code
