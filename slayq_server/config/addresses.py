"""Addresses: origins and networks that callbacks may or may not go to, URLs, what to bind to. In their normal form.

Each function takes a text and returns its normal form, or raises Refused. What may hold a password is never quoted.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from slayq_server.config.rules import Refused, shown

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)
_NUMERIC_END: Final = re.compile(r"(^|\.)(0[xX][0-9A-Fa-f]*|[0-9]+)\.?$", re.ASCII)
_BLANK: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_LONGEST_HOST: Final = 253
_ORIGIN: Final = 'an origin such as "https://app.example.com" or "http://localhost:3000"'
_DATABASE: Final = "postgresql://user:password@host:5432/database"


def origin(text: str) -> str:
    """`scheme://host[:port]` of http or https, in lower case, without the scheme's own port."""
    parts = _split(text, _ORIGIN)
    if "@" in parts.netloc:
        raise Refused(f"must be {_ORIGIN}, without user and password")
    if parts.scheme not in _DEFAULT_PORTS:
        raise Refused(f"must be {_ORIGIN}, not {shown(text)}")
    rest = text[text.index("//") + 2 + len(parts.netloc) :]
    if rest:
        raise Refused(f"must be an origin, which has no path, query or fragment: take {shown(_visible(rest))} out")
    port = _port(parts, text)
    authority = _host(parts, text)
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        authority = f"{authority}:{port}"
    return f"{parts.scheme}://{authority}"


def origin_or_network(text: str) -> str:
    """An origin, or a network such as `10.0.0.0/8` (a single address is one, too)."""
    if "://" in text:
        return origin(text)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Refused(f'must be {_ORIGIN}, or a network such as "10.0.0.0/8", not {shown(text)}') from None
    raise Refused(f"must be a network's own address: {shown(str(network))}, not {shown(text)}")


def http_url(text: str) -> str:
    """An http or https URL as it stands, without credentials: what a job's payload may have as its `url`."""
    what = 'an http or https URL such as "https://app.example.com/slayq"'
    parts = _split(text, what)
    if "@" in parts.netloc:
        raise Refused(f"must be {what}, without user and password: callbacks are signed instead")
    if parts.scheme not in _DEFAULT_PORTS:
        raise Refused(f"must be {what}, not {shown(_visible(text))}")
    _host(parts, text)
    _port(parts, text)
    return text


def postgres_url(text: str) -> str:
    """A `postgresql://` (or `postgres://`) URL as it stands. No message quotes any of it: it holds a password."""
    if _BLANK.search(text):
        raise Refused(f"holds a space or a control character: write {_DATABASE}, with those percent-encoded")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise Refused(f"is no URL: write {_DATABASE}, with [ and ] in the password percent-encoded") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise Refused(f"must begin with postgresql:// or postgres://, as in {_DATABASE}")
    if not text.lower().startswith(f"{parts.scheme}://"):
        raise Refused(f"must have // after its scheme, as in {_DATABASE}")
    if "#" in text or parts.netloc.count("@") > 1:
        raise Refused("holds a # or a second @: percent-encode those in the password (# as %23, @ as %40, / as %2F)")
    hosts = parts.netloc.rpartition("@")[2]
    if any(not _good_port(host) for host in hosts.split(",")):
        raise Refused("has a port that is not 1 to 65535: percent-encode / and ? in the password (as %2F and %3F)")
    try:
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise Refused("has a query that is not of the form name=value&name=value") from None
    return text


def bind_address(text: str) -> str:
    """An IP address or a host name to listen on, without a port."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    if not _is_host_name(text):
        raise Refused(f'must be an address such as "127.0.0.1", "::1" or "0.0.0.0", without a port, not {shown(text)}')
    return text.lower()


def without_password(url: str) -> str:
    """A database URL as it may be shown: user, hosts and database; neither password nor query."""
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{parts.scheme}://{user}{'@' if user else ''}{hosts}{parts.path}"


def _split(text: str, what: str) -> SplitResult:
    """The parts of a URL that has no blanks in it."""
    if _BLANK.search(text):
        raise Refused(f"must be {what}, without spaces or control characters")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise Refused(f"must be {what}") from None
    if not parts.netloc or "\\" in parts.netloc:
        raise Refused(f"must be {what}" + ("" if "@" in text else f", not {shown(_visible(text))}"))
    return parts


def _visible(url: str) -> str:
    """A URL as a message may show it: its query may hold a token."""
    head, mark, _ = url.partition("?")
    return f"{head}?…" if mark else head


def _host(parts: SplitResult, text: str) -> str:
    """The host in lower case, an IPv6 address in brackets and at its shortest."""
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(host)}]"
        except ValueError:
            raise Refused(f"has no IPv6 address in its brackets: {shown(_visible(text))}") from None
    if not host.isascii():
        raise Refused(f'must have its host in ASCII (such as "xn--bcher-kva.example"), not {shown(_visible(text))}')
    if not _is_host_name(host):
        raise Refused(f"has a host that is neither a name nor an IP address: {shown(_visible(text))}")
    return host.removesuffix(".")


def _is_host_name(host: str) -> bool:
    """A DNS name or an IPv4 address in its usual form; 0x7f.1 and the like, which some resolvers take, are not."""
    if not host or len(host) > _LONGEST_HOST or not _HOST.fullmatch(host):
        return False
    if not _NUMERIC_END.search(host):
        return True
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _port(parts: SplitResult, text: str) -> int | None:
    """The port that is written, if one is."""
    if not _good_port(parts.netloc):
        raise Refused(f"has a port that is no number from 1 to 65535: {shown(_visible(text))}")
    return parts.port


def _good_port(host: str) -> bool:
    """Whether what follows the host (which may be in brackets) is nothing, or a colon and a port."""
    _, colon, port = host.rpartition("]")[2].partition(":")
    return not colon or (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65_535)
