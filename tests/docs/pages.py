"""The pages of the documentation, and the code blocks in them.

A block of Python is run, with all blocks of its page before it, unless a comment in the line above it says otherwise:

- `<!-- not run -->`: it is only held against the types;
- `<!-- fragment -->`: it only has to parse, as it is another SDK's, or a part of something.

One that begins with `# name.py` is that file: others import it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[a-z ]+) -->\n)?```(?P<language>[a-z]+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
_FILE = re.compile(r"# ([a-z_]+)\.py\n")
MARKS = {None, "not run", "fragment"}


@dataclass(frozen=True, slots=True)
class Block:
    """A code block. `line` is the page's, from 1, on which its code begins."""

    page: str
    line: int
    language: str
    code: str
    mark: str | None

    @property
    def module(self) -> str | None:
        """The name of the module that it is; None for a part of its page's."""
        named = _FILE.match(self.code)
        return named[1] if named and self.language == "python" else None

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def blocks_of(page: str, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    text = PAGES[page].read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("code")) + 1, language, found["code"], found["mark"])
        for found in _BLOCK.finditer(text)
        if found["language"] == language
    ]


def pages_with(language: str) -> list[str]:
    """The names of the pages that have blocks of a language."""
    return [page for page in PAGES if blocks_of(page, language)]
