"""The command line: `slayq COMMAND module:app`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, by default that of `sys.argv`; returns the exit code."""
    try:
        # Within the block, so that Ctrl-C is quiet from the first moment on.
        from slayq.cli.entry import run

        return run(arguments)
    except KeyboardInterrupt:
        return 130
