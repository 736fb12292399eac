"""The command line: `slayq-server COMMAND`, or just `slayq-server CONFIG`. One module a group of commands."""

from slayq_server.cli.entry import main

__all__ = ["main"]
