"""Where callbacks may go. URLs come from payloads, and so from whoever may add a job: they are not trusted.

Two checks, both needed. `check_url` judges what a URL says, before anything is sent. `check_address` judges each
address about to be connected to, whatever name led there, so that DNS (an answer that changes, a name that points
inside) does not get round the first. Neither looks anything up.

- With origins in `allow`, only those, and those of registered functions; else any origin at a public address.
- Addresses of this machine and of private networks: only for origins in `allow`.
- Link-local addresses, those of cloud metadata services, and what is no host's address (multicast, reserved): never.
- Origins and networks in `deny`: never.

The tables are our own and not `ipaddress.is_private`, whose answers differ between patch releases of Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST_URL: Final = 8_192
"""Characters. More than common servers take as a request's first line."""


class BlockedReason(StrEnum):
    """Why a callback was not let out: the `reason` label of `slayq_callback_blocked_total`."""

    MALFORMED = "malformed"
    SCHEME = "scheme"
    CREDENTIALS = "credentials"
    NOT_ALLOWED = "not_allowed"
    DENIED = "denied"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link_local"
    METADATA = "metadata"
    RESERVED = "reserved"


class Blocked(Exception):
    """A callback that must not be sent. The message says why and what to do, and quotes no path, query or password."""

    def __init__(self, reason: BlockedReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Target:
    """Where a callback goes: a URL that is fit to be sent to as it stands."""

    url: str
    """ASCII, without fragment; scheme and host in lower case."""
    origin: str
    """`scheme://host[:port]`, without the scheme's own port and a last dot."""
    authority: str
    """`host[:port]`: what messages show of the URL."""
    address: str | None
    """The host, where it is an IP address."""


class AddressGuard:
    """One configuration's rules. Raises ValueError for entries that are none."""

    __slots__ = ("_allowed", "_denied_networks", "_denied_origins")

    def __init__(self, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> None:
        """Takes the rules over.

        Args:
            allow: origins such as `https://app.example.com:8443`, or URLs, of which the origin counts. None: all that
                is public.
            deny: origins, or networks such as `203.0.113.0/24`.
        """
        self._allowed = frozenset(_origin(entry) for entry in allow)
        self._denied_origins = frozenset(_origin(entry) for entry in deny if "://" in entry)
        self._denied_networks = tuple(ip_network(entry) for entry in deny if "://" not in entry)

    def check_url(self, url: str, *, registered: bool = False) -> Target:
        """Where a URL leads; raises Blocked.

        One that is `registered` stands in an app's manifest and not in a payload: it may lead to an origin that is not
        in `allow`. Which addresses it may lead to is the same for all.
        """
        target = target_of(url)
        if target.origin in self._denied_origins:
            raise Blocked(BlockedReason.DENIED, f"{target.authority} is in callbacks.deny")
        if self._allowed and not registered and target.origin not in self._allowed:
            raise Blocked(
                BlockedReason.NOT_ALLOWED,
                f"{target.origin} is no allowed origin: add it to callbacks.allow if callbacks may go there",
            )
        if target.address is not None:
            self.check_address(target.address, target)
        return target

    def check_address(self, address: str, target: Target) -> None:
        """Whether a callback to `target` may be sent to an IP address; raises Blocked."""
        kind = kind_of(address)
        if kind in (BlockedReason.LINK_LOCAL, BlockedReason.METADATA, BlockedReason.RESERVED):
            raise Blocked(kind, f"{_leads(target, address)}, {_WHAT[kind]}: callbacks never go there")
        if kind is not None and target.origin not in self._allowed:
            raise Blocked(
                kind,
                f"{_leads(target, address)}, {_WHAT[kind]}: add {target.origin} to callbacks.allow if it may go there",
            )
        if self._denied_networks and any(
            form in network for form in _forms(ip_address(address)) for network in self._denied_networks
        ):
            raise Blocked(BlockedReason.DENIED, f"{_leads(target, address)}, which is in callbacks.deny")


# ── URLs ──

# Strict, so that no two parsers can see different hosts in one URL.
_URL: Final = re.compile(
    r"""
    (?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://
    (?P<userinfo>[^/?\#]*@)?
    (?P<host>\[[0-9A-Fa-f:.]+\]|[^/?\#@:\[\]]*)
    (?::(?P<port>[0-9]{0,5}))?
    (?P<path>/[^?\#]*)?
    (?:\?(?P<query>[^\#]*))?
    (?:\#.*)?
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)
_LONGEST_NAME: Final = 253
_NUMERIC_END: Final = re.compile(r"(^|\.)(0x[0-9a-f]*|[0-9]+)\.?", re.ASCII)
_URI: Final = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*", re.ASCII)
_URI_PUNCTUATION: Final = "._~!$&'()*+,;=:@/?%-"
_PORTS: Final = {"http": 80, "https": 443}


@lru_cache(maxsize=1024)
def target_of(url: str) -> Target:
    """What a URL names, if it is one that callbacks can be sent to at all; else raises Blocked."""
    if len(url) > LONGEST_URL:
        raise _malformed(f"the url has {len(url)} characters: {LONGEST_URL} are the most")
    if _CONTROL.search(url):
        raise _malformed("the url holds a control character: percent-encode it or take it out")
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _malformed("the url is none: write it like https://app.example.com/path")
    scheme = parts["scheme"].lower()
    if scheme not in _PORTS:
        raise Blocked(BlockedReason.SCHEME, f"the url's scheme is {scheme[:20]}: it must be http or https")
    if parts["userinfo"] is not None:
        raise Blocked(
            BlockedReason.CREDENTIALS, "the url holds a user or password: take it out, callbacks are signed instead"
        )
    host, address = _host(parts["host"].lower())
    port = int(parts["port"] or _PORTS[scheme])
    if not 1 <= port <= 65_535:
        raise _malformed(f"the url's port is {port}: it must be from 1 to 65535")
    suffix = "" if port == _PORTS[scheme] else f":{port}"
    query = f"?{_encoded(parts['query'])}" if parts["query"] else ""  # an empty one is not sent
    return Target(
        url=f"{scheme}://{host}{suffix}{_encoded(parts['path'] or '/')}{query}",
        origin=f"{scheme}://{host.removesuffix('.')}{suffix}",
        authority=f"{host}{suffix}",
        address=address,
    )


def _origin(entry: str) -> str:
    try:
        return target_of(entry).origin
    except Blocked as error:
        raise ValueError(f"{entry!r} is no origin such as https://app.example.com: {error}") from None


def _host(host: str) -> tuple[str, str | None]:
    """The host as it is sent (an IPv6 address in brackets), and the address if it is one."""
    if not host:
        raise _malformed("the url has no host: write it like https://app.example.com/path")
    if host.startswith("["):
        try:
            address = IPv6Address(host[1:-1])
        except ValueError:
            raise _malformed("the url has no IPv6 address in its brackets") from None
        return f"[{address}]", str(address)
    if not host.isascii():
        raise _malformed("the url's host is not in ASCII: write it like xn--bcher-kva.example")
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(host):
        raise _malformed("the url's host is neither a name nor an IP address")
    if not _ends_in_number(host):
        return host, None
    # 0x7f.1, 2130706433 and 0177.0.0.1 are 127.0.0.1 to some resolvers and something else to others.
    try:
        return host, str(IPv4Address(host))
    except ValueError:
        raise _malformed(f"the url's host {host[:40]} is a number: write an IP address as four decimal ones") from None


def _ends_in_number(host: str) -> bool:
    last = host.removesuffix(".").rpartition(".")[2]
    return _NUMERIC_END.fullmatch(last) is not None


def _encoded(text: str) -> str:
    """A path or query with what URIs may not hold percent-encoded; what is encoded already stays as it is."""
    if _URI.fullmatch(text):
        return text
    try:
        return quote(text, safe=_URI_PUNCTUATION)
    except UnicodeEncodeError:
        raise _malformed("the url holds half a surrogate pair, which is no character") from None


def _malformed(message: str) -> Blocked:
    return Blocked(BlockedReason.MALFORMED, message)


# ── Addresses ──

_METADATA: Final = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # nearly every cloud
            "169.254.170.2",  # AWS: credentials of ECS tasks
            "169.254.170.23",  # AWS: credentials of EKS pods
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # AWS: credentials of EKS pods
            "fd20:ce::254",  # Google
            "fd00:42::42",  # Scaleway
            "168.63.129.16",  # Azure's host agent
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
        ),
    )
)

_KINDS: Final[tuple[tuple[IPv4Network | IPv6Network, BlockedReason], ...]] = tuple(
    (ip_network(network), kind)
    for kind, networks in (
        (BlockedReason.LOOPBACK, ("127.0.0.0/8", "::1/128")),
        (BlockedReason.LINK_LOCAL, ("169.254.0.0/16", "fe80::/10")),
        (
            BlockedReason.PRIVATE,
            (
                *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
                "100.64.0.0/10",  # behind a provider's NAT; overlay networks
                "198.18.0.0/15",  # benchmarks
            ),
        ),
        (
            BlockedReason.RESERVED,
            (
                "0.0.0.0/8",  # Linux takes 0.0.0.0 for this machine
                *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.51.100.0/24", "203.0.113.0/24"),
                *("224.0.0.0/4", "240.0.0.0/4"),
                *("2001::/23", "2001:db8::/32", "3fff::/20"),  # Teredo is in the first
            ),
        ),
    )
    for network in networks
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
_EMBEDDING: Final = (
    # IPv6 networks whose addresses hold an IPv4 one, and how many bits follow that.
    (IPv6Network("::ffff:0:0/96"), 0),
    (IPv6Network("::ffff:0:0:0/96"), 0),
    (IPv6Network("64:ff9b::/96"), 0),
    (IPv6Network("2002::/16"), 80),
)
_WHAT: Final = {
    BlockedReason.LOOPBACK: "this machine",
    BlockedReason.PRIVATE: "a private network",
    BlockedReason.LINK_LOCAL: "a link-local address",
    BlockedReason.METADATA: "a cloud's metadata service",
    BlockedReason.RESERVED: "a reserved address",
}


@lru_cache(maxsize=4096)
def kind_of(address: str) -> BlockedReason | None:
    """What kind of special address one is; None for a public one. Raises ValueError for what is no IP address."""
    *_, innermost = _forms(ip_address(address))
    if innermost in _METADATA:
        return BlockedReason.METADATA
    for network, kind in _KINDS:
        if innermost in network:
            return kind
    if isinstance(innermost, IPv6Address) and innermost not in _GLOBAL_UNICAST:
        return BlockedReason.RESERVED
    return None


def _forms(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """The address, and the IPv4 address in it that packets to it end up at, if there is one."""
    if isinstance(address, IPv4Address):
        return (address,)
    plain = IPv6Address(int(address))  # without a scope: fe80::1%eth0
    for network, following in _EMBEDDING:
        if plain in network:
            return plain, IPv4Address((int(plain) >> following) & 0xFFFF_FFFF)
    return (plain,)


def _leads(target: Target, address: str) -> str:
    return f"{target.authority} is at {address}" if target.address is None else f"the url's host is {address}"
