"""Runs the Python of a page: its files as modules, the rest in one namespace, with `await` at the top where it is."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

from tests.docs.pages import Block, blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def importable(page: str, folder: Path) -> Iterator[types.ModuleType]:
    """Writes a page's files into a folder and lets them be imported; gives the module of its other blocks."""
    files = {block.module: block for block in blocks_of(page, "python") if block.module}
    module = types.ModuleType(page_module(page))
    before = dict(sys.modules)
    sys.path.insert(0, str(folder))
    sys.modules[module.__name__] = module
    try:
        for name, block in files.items():
            (folder / f"{name}.py").write_text(block.code, encoding="utf-8")
        importlib.invalidate_caches()
        yield module
    finally:
        sys.path.remove(str(folder))
        for name in (*files, module.__name__):
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


async def run(block: Block, module: types.ModuleType) -> None:
    """Runs a block. One that is not async runs in a thread, as blocking drivers want it."""
    if block.module:
        importlib.import_module(block.module)
        return
    code = compiled(block)
    if code.co_flags & inspect.CO_COROUTINE:
        await eval(code, module.__dict__)
    else:
        await asyncio.to_thread(exec, code, module.__dict__)


def compiled(block: Block) -> types.CodeType:
    """Its code, whose tracebacks name the page and its line."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: Any = compile("\n" * (block.line - 1) + block.code, block.page, "exec", flags=flags, dont_inherit=True)
    assert isinstance(code, types.CodeType)
    return code


def page_module(page: str) -> str:
    """The name of the module that a page's blocks make up."""
    return f"page_{page.removesuffix('.md').replace('-', '_').lower()}"
