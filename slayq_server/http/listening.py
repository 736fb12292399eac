"""The sockets of an address, and why there are none."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Final

from slayq_server.errors import ConfigurationError

START_TIMEOUT: Final = 10.0
"""Seconds for the bind address to be resolved and bound."""


async def bound(bind: str, port: int) -> list[socket.socket]:
    """Sockets bound to all addresses of `bind`, on which nothing listens yet, for several processes to share.

    Shared, and not one for each (SO_REUSEPORT): then a connection is taken by a process that is well, none is lost
    with one that dies, and another server that has the port already is found out.

    Raises:
        ConfigurationError: says what is wrong with the address.
    """
    try:
        async with asyncio.timeout(START_TIMEOUT):
            server = await asyncio.get_running_loop().create_server(asyncio.Protocol, bind, port, start_serving=False)
    except OSError as error:  # TimeoutError is one
        raise ConfigurationError(why_not(bind, port, error)) from error
    copies = [each.dup() for each in server.sockets]
    server.close()
    return copies


def why_not(bind: str, port: int, error: OSError) -> str:
    """What to do about an address that cannot be listened on."""
    host = f"[{bind}]" if ":" in bind else bind
    address = f"{host}:{port}"
    if isinstance(error, TimeoutError | socket.gaierror):
        return f"http: {bind!r} cannot be resolved: set http.bind to an address of this machine"
    if error.errno == errno.EADDRINUSE:
        return f"http: {address} is in use: stop what listens there, or set http.port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"http: {bind} is no address of this machine: set http.bind to one that is (0.0.0.0 for all)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"http: {address} may not be used by this user: set http.port to one above 1023"
    return f"http: cannot listen on {address} ({error.strerror or error}): set http.bind and http.port"
