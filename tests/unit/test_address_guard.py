"""Where callbacks may go: the rules on URLs, and on the addresses that names lead to."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_network
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from slayq_server.engine.address_guard import AddressGuard, Blocked, BlockedReason, kind_of, target_of

PUBLIC = AddressGuard()
"""No origin is listed: all that is public."""

SPECIAL = {
    BlockedReason.LOOPBACK: ["127.0.0.1", "127.255.255.254", "::1"],
    BlockedReason.PRIVATE: [
        *("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255"),
        *("198.18.0.1", "198.19.255.255", "fc00::1", "fdff::1", "fec0::1"),
    ],
    BlockedReason.LINK_LOCAL: ["169.254.0.1", "169.254.255.255", "fe80::1", "fe80::1%eth0", "febf::1"],
    BlockedReason.METADATA: [
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
        *("fd00:42::42", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    ],
    BlockedReason.RESERVED: [
        *("0.0.0.0", "0.1.2.3", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
        *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("::", "::2", "::7f00:1", "100::1", "64:ff9b:1::7f00:1", "2001::1", "2001:1::1", "2001:db8::1", "3fff::1"),
        *("4000::1", "5f00::1", "ff02::1", "ff0e::1"),
    ],
}
ALL_SPECIAL = [(address, kind) for kind, addresses in SPECIAL.items() for address in addresses]
NEVER = (BlockedReason.LINK_LOCAL, BlockedReason.METADATA, BlockedReason.RESERVED)
EMBEDDINGS = ["::ffff:{}", "::ffff:0:{}", "64:ff9b::{}", "2002:{}::", "2002:{}:1:2:3:4:5"]


def reason_of_url(guard: AddressGuard, url: str) -> BlockedReason | None:
    """Why the guard refuses a URL; None if it lets it pass."""
    try:
        guard.check_url(url)
    except Blocked as error:
        return error.reason
    return None


def reason_of_address(guard: AddressGuard, address: str, url: str = "http://app.example.com/") -> BlockedReason | None:
    """Why the guard refuses an address that the URL's name led to; None if it lets it pass."""
    try:
        guard.check_address(address, target_of(url))
    except Blocked as error:
        return error.reason
    return None


def embedded(form: str, address: str) -> str:
    """An IPv4 address in an IPv6 one."""
    number = int(IPv4Address(address))
    return str(IPv6Address(form.format(f"{number >> 16:x}:{number & 0xFFFF:x}")))


def in_url(address: str) -> str:
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


# ── addresses ──


@pytest.mark.parametrize(("address", "kind"), ALL_SPECIAL)
def test_special_addresses_are_known(address: str, kind: BlockedReason) -> None:
    """Each kind of address that is not public, at the edges of its ranges."""
    assert kind == kind_of(address)


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
        *("128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255"),
        *("192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "168.63.129.15"),
        *("2606:4700::1", "2a00::1", "2001:200::1", "2001:4860::1", "3ffe:ffff::1"),
    ],
)
def test_public_addresses_pass(address: str) -> None:
    """With nothing listed, any public address is fine; so are the neighbours of the special ranges."""
    assert (None, None) == (reason_of_address(PUBLIC, address), reason_of_url(PUBLIC, in_url(address)))


@pytest.mark.parametrize(("address", "kind"), ALL_SPECIAL)
def test_special_addresses_are_blocked_where_nothing_is_listed(address: str, kind: BlockedReason) -> None:
    """Neither a name that leads there nor the address itself gets through."""
    assert kind == reason_of_address(PUBLIC, address)
    if "%" not in address:
        assert kind == reason_of_url(PUBLIC, in_url(address))


@pytest.mark.parametrize(("address", "kind"), ALL_SPECIAL)
def test_a_listed_origin_may_be_inside_but_never_at_a_metadata_or_link_local_address(
    address: str, kind: BlockedReason
) -> None:
    """A listed name may lead to this machine or a private network; nothing makes the rest allowed."""
    expected = kind if kind in NEVER else None
    assert expected == reason_of_address(AddressGuard(["http://app.example.com"]), address)
    if "%" not in address:
        assert expected == reason_of_url(AddressGuard([in_url(address)]), in_url(address))


@pytest.mark.parametrize("form", EMBEDDINGS)
@pytest.mark.parametrize(("address", "kind"), [pair for pair in ALL_SPECIAL if ":" not in pair[0]])
def test_an_ipv4_address_inside_an_ipv6_one_is_judged(form: str, address: str, kind: BlockedReason) -> None:
    """IPv4-mapped, translated, NAT64 and 6to4 addresses are as good as the address in them."""
    assert kind == kind_of(embedded(form, address))


@given(
    network=st.sampled_from(["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]),
    offset=st.integers(0, 2**24 - 1),
    form=st.sampled_from(["{}", *EMBEDDINGS]),
)
def test_no_address_of_an_internal_network_is_public(network: str, offset: int, form: str) -> None:
    """Anywhere in the ranges, however wrapped."""
    within = ip_network(network)
    address = str(within[offset % within.num_addresses])
    assert kind_of(address if form == "{}" else embedded(form, address)) is not None


@given(number=st.integers(0, 2**128 - 1))
def test_ipv6_is_public_only_where_it_is_handed_out(number: int) -> None:
    """Outside 2000::/3 nothing is let out but what holds a public IPv4 address."""
    address = IPv6Address(number)
    if kind_of(str(address)) is None:
        assert address in ip_network("2000::/3") or any(
            address in ip_network(network) for network in ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
        )


def test_what_is_no_address_is_an_error() -> None:
    """The guard is never asked about names; if it were, it must not say yes."""
    with pytest.raises(ValueError, match="does not appear to be an IP"):
        PUBLIC.check_address("app.example.com", target_of("http://app.example.com/"))


# ── spellings of addresses in URLs ──


@pytest.mark.parametrize(
    "host",
    [
        *("0x7f.1", "2130706433", "0177.0.0.1", "127.1", "127.0.1", "0x7f000001", "017700000001", "0", "0x0"),
        *("127.0.0.1.", "127.0.0.01", "0x7F.0.0.1", "256.0.0.1", "1.2.3.4.5", "999", "1.1.1.1.", "0x"),
        *("１２７.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "1２7.0.0.1"),
        *("[::1", "::1", "[::1]x", "[fe80::1%25eth0]", "[::ffff:127.0.0.1.]", "[127.0.0.1]", "[]", "[v1.x]"),
        *("127.0.0.1%00", "127.0.0.1%2f", "%31%32%37.0.0.1", "loc%61lhost", "localhost\\", "a b", "a_-", "-a"),
        *("", ".", "..", "a..b", ".a", "a" * 64, "a." * 127 + "aa", "bücher.example", "a,b", "a'b", "a(b", "*"),
    ],
)
def test_a_host_in_an_unusual_spelling_is_refused(host: str) -> None:
    """Resolvers and parsers differ on these: some end up inside."""
    assert BlockedReason.MALFORMED == reason_of_url(PUBLIC, f"http://{host}/")


def spellings(number: int) -> st.SearchStrategy[str]:
    """Ways in which C's inet_aton reads a number as an IPv4 address."""

    @st.composite
    def spelling(draw: st.DrawFn) -> str:
        count = draw(st.integers(1, 4))
        parts = [number >> 24 & 255, number >> 16 & 255, number >> 8 & 255][: count - 1]
        parts.append(number & (1 << 8 * (5 - count)) - 1)
        written = draw(st.lists(st.sampled_from(["{}", "0x{:x}", "0X{:X}", "0{:o}", "0x00{:x}"]), min_size=4))
        return ".".join(form.format(part) for form, part in zip(written, parts, strict=False))

    return spelling()


@given(
    host=(st.integers(0x7F000000, 0x7FFFFFFF) | st.integers(0x0A000000, 0x0AFFFFFF) | st.just(0xA9FEA9FE)).flatmap(
        spellings
    )
)
def test_no_spelling_of_an_internal_address_gets_through(host: str) -> None:
    """Decimal, octal, hexadecimal, with fewer than four parts: whatever the system's resolver would take."""
    assert kind_of(socket.inet_ntoa(socket.inet_aton(host))) is not None
    assert reason_of_url(PUBLIC, f"http://{host}/") is not None
    assert reason_of_url(PUBLIC, f"http://{host}:8080/path?query") is not None


@given(rest=st.text(max_size=30) | st.text("aB0179.:/?#@[]%-_\\ ü１", max_size=30))
def test_what_passes_names_one_host_to_every_parser(rest: str) -> None:
    """The standard library, and the client's own parser, see the same host in what is sent to as the guard does."""
    try:
        target = target_of("http://" + rest)
    except Blocked:
        return
    parts = urlsplit(target.url)
    assert ("http", target.authority, None, None) == (parts.scheme, parts.netloc, parts.username, parts.password)
    sent = URL(target.url, encoded=True)
    assert (parts.hostname, parts.port or 80) == (sent.raw_host, sent.port)
    assert target.url == f"http://{target.authority}{sent.raw_path_qs}"
    assert target.url.isascii()
    assert target == target_of(target.url)


# ── URLs ──


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://app.example.com", "http://app.example.com/"),
        ("HTTPS://App.Example.COM:443/A?b=C#d", "https://app.example.com/A?b=C"),
        ("http://app.example.com:80/", "http://app.example.com/"),
        ("http://app.example.com:/", "http://app.example.com/"),
        ("https://app.example.com:80/", "https://app.example.com:80/"),
        ("http://app.example.com:08080/x", "http://app.example.com:8080/x"),
        ("http://app.example.com?x=1", "http://app.example.com/?x=1"),
        ("http://app.example.com#x", "http://app.example.com/"),
        ("http://app.example.com./x", "http://app.example.com./x"),
        ("http://web_1:3000/x", "http://web_1:3000/x"),
        ("http://[2606:4700:0:0::1]:8080/x", "http://[2606:4700::1]:8080/x"),
        ("http://[::FFFF:1.1.1.1]/", "http://[::ffff:101:101]/"),
        ("http://a.b/ü%20ö/é?q=ä%C3%A4&s=a b", "http://a.b/%C3%BC%20%C3%B6/%C3%A9?q=%C3%A4%C3%A4&s=a%20b"),
        ("http://a.b/%zz/a%2Fb/../c?q=1+2&r=%2B", "http://a.b/%zz/a%2Fb/../c?q=1+2&r=%2B"),
        ('http://a.b/"<>`{|}^\\[]?"<>', "http://a.b/%22%3C%3E%60%7B%7C%7D%5E%5C%5B%5D?%22%3C%3E"),
        ("http://a.b/x@y:z", "http://a.b/x@y:z"),
        ("http://a.b?@c.d/", "http://a.b/?@c.d/"),
    ],
)
def test_a_url_is_brought_into_the_form_that_is_sent_to(url: str, expected: str) -> None:
    """Scheme and host in lower case, no fragment; what is percent-encoded stays, what must be is added."""
    assert expected == target_of(url).url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://App.example.com./x?y", ("http://app.example.com", "app.example.com.", None)),
        ("https://app.example.com:8443/", ("https://app.example.com:8443", "app.example.com:8443", None)),
        ("http://1.1.1.1/", ("http://1.1.1.1", "1.1.1.1", "1.1.1.1")),
        ("https://[2A00::1]:443/", ("https://[2a00::1]", "[2a00::1]", "2a00::1")),
    ],
)
def test_a_target_knows_its_origin(url: str, expected: tuple[str, str, str | None]) -> None:
    """Origins are compared, authorities are shown, addresses are judged."""
    target = target_of(url)
    assert expected == (target.origin, target.authority, target.address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://app.example.com/", BlockedReason.SCHEME),
        ("file:///etc/passwd", BlockedReason.SCHEME),
        ("gopher://127.0.0.1:6379/_x", BlockedReason.SCHEME),
        ("javascript://app.example.com/", BlockedReason.SCHEME),
        ("ws://app.example.com/", BlockedReason.SCHEME),
        ("http://user:password@app.example.com/", BlockedReason.CREDENTIALS),
        ("http://app.example.com@evil.example/", BlockedReason.CREDENTIALS),
        ("http://@app.example.com/", BlockedReason.CREDENTIALS),
        ("http://a@b@c/", BlockedReason.CREDENTIALS),
        ("", BlockedReason.MALFORMED),
        ("app.example.com/path", BlockedReason.MALFORMED),
        ("//app.example.com/", BlockedReason.MALFORMED),
        ("http:app.example.com", BlockedReason.MALFORMED),
        ("http:/app.example.com", BlockedReason.MALFORMED),
        ("http:\\\\app.example.com", BlockedReason.MALFORMED),
        ("http://app.example.com\\@evil.example/", BlockedReason.CREDENTIALS),
        ("http://app.example.com\\evil/", BlockedReason.MALFORMED),
        (" http://app.example.com/", BlockedReason.MALFORMED),
        ("http://app.example.com/\r\nX: y", BlockedReason.MALFORMED),
        ("http://app.example.com/a\tb", BlockedReason.MALFORMED),
        ("http://app.example.com/\0", BlockedReason.MALFORMED),
        ("http://app.example.com/\ud800", BlockedReason.MALFORMED),
        ("http://app.example.com:0/", BlockedReason.MALFORMED),
        ("http://app.example.com:65536/", BlockedReason.MALFORMED),
        ("http://app.example.com:999999/", BlockedReason.MALFORMED),
        ("http://app.example.com:8o80/", BlockedReason.MALFORMED),
        ("http://app.example.com:-1/", BlockedReason.MALFORMED),
        ("http://app.example.com:８０/", BlockedReason.MALFORMED),
        ("http://app.example.com:80:80/", BlockedReason.MALFORMED),
        ("http:///path", BlockedReason.MALFORMED),
        ("http://?x", BlockedReason.MALFORMED),
        ("http://app.example.com/" + "a" * 8_192, BlockedReason.MALFORMED),
    ],
)
def test_a_url_that_cannot_be_sent_to_is_refused(url: str, reason: BlockedReason) -> None:
    """Only http and https, a host, a possible port, no credentials, no control characters, a sane length."""
    assert reason == reason_of_url(PUBLIC, url)


def test_messages_hold_nothing_of_path_query_or_credentials() -> None:
    """They end up in logs and in the database."""
    for url in (
        "http://user:hunter2@app.example.com/hunter2?hunter2",
        "ftp://app.example.com/hunter2?hunter2#hunter2",
        "http://127.0.0.1/hunter2?hunter2",
        "http://0x7f.1/hunter2?hunter2",
        "http://app.example.com:0/hunter2?hunter2",
        "hunter2",
        "http://app.example.com/hunter2\n",
    ):
        with pytest.raises(Blocked) as caught:
            PUBLIC.check_url(url)
        assert "hunter2" not in str(caught.value)
        assert str(caught.value).isprintable()


# ── allow and deny ──


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://app.example.com/x", None),
        ("https://app.example.com:443/", None),
        ("https://APP.example.com./", None),
        ("http://app.example.com/", BlockedReason.NOT_ALLOWED),
        ("https://app.example.com:8443/", BlockedReason.NOT_ALLOWED),
        ("https://other.example.com/", BlockedReason.NOT_ALLOWED),
        ("https://app.example.com.evil.example/", BlockedReason.NOT_ALLOWED),
        ("https://evilapp.example.com/", BlockedReason.NOT_ALLOWED),
        ("http://localhost:3000/slayq", None),
        ("http://localhost:3001/slayq", BlockedReason.NOT_ALLOWED),
        ("http://127.0.0.1:3000/slayq", BlockedReason.NOT_ALLOWED),
        ("http://[::1]:3000/", None),
        ("http://[0:0:0:0:0:0:0:1]:3000/", None),
        ("http://10.1.2.3/", None),
        ("http://10.1.2.4/", BlockedReason.NOT_ALLOWED),
    ],
)
def test_with_origins_listed_only_those_are_allowed(url: str, reason: BlockedReason | None) -> None:
    """Scheme, host and port must all be those of an entry."""
    guard = AddressGuard(["https://app.example.com", "http://localhost:3000", "http://[::1]:3000", "http://10.1.2.3"])
    assert reason == reason_of_url(guard, url)


def test_an_allowed_url_stands_for_its_origin() -> None:
    """SLAY_Q_CRON_URL is listed as it is."""
    guard = AddressGuard(["http://localhost:3000/slayq?x=1"])
    assert reason_of_url(guard, "http://localhost:3000/other") is None


def test_a_name_that_leads_inside_is_blocked_unless_its_origin_is_listed() -> None:
    """DNS can point anywhere: what counts is the address."""
    listed = AddressGuard(["http://app.example.com"])
    url = "http://app.example.com/"
    assert [None, None] == [reason_of_url(PUBLIC, url), reason_of_url(listed, url)]
    assert [BlockedReason.LOOPBACK, None] == [reason_of_address(guard, "127.0.0.1", url) for guard in (PUBLIC, listed)]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://bad.example.com/", BlockedReason.DENIED),
        ("https://bad.example.com.:443/", BlockedReason.DENIED),
        ("http://bad.example.com/", None),
        ("http://1.2.3.4/", BlockedReason.DENIED),
        ("http://[::ffff:1.2.3.4]/", BlockedReason.DENIED),
        ("http://[64:ff9b::102:304]/", BlockedReason.DENIED),
        ("http://1.2.4.4/", None),
        ("http://[2a00:1::2]/", BlockedReason.DENIED),
        ("http://[2a00:2::2]/", None),
    ],
)
def test_what_is_denied_stays_out(url: str, reason: BlockedReason | None) -> None:
    """Origins and networks; an IPv4 network also where it is wrapped in IPv6."""
    assert reason == reason_of_url(AddressGuard(deny=["https://bad.example.com", "1.2.3.0/24", "2a00:1::/32"]), url)


def test_deny_wins_over_allow() -> None:
    """An origin that is in both, or whose address is in a denied network, is denied."""
    guard = AddressGuard(["http://app.example.com", "http://10.1.2.3"], ["http://app.example.com", "10.0.0.0/8"])
    assert BlockedReason.DENIED == reason_of_url(guard, "http://app.example.com/")
    assert BlockedReason.DENIED == reason_of_url(guard, "http://10.1.2.3/")
    assert BlockedReason.DENIED == reason_of_address(guard, "10.9.9.9")


@pytest.mark.parametrize("entry", ["app.example.com", "ftp://app.example.com", "http://", "http://a@b", "", "*"])
def test_an_entry_that_is_no_origin_is_refused(entry: str) -> None:
    """The error shows the entry."""
    with pytest.raises(ValueError, match="is no origin"):
        AddressGuard([entry])


def test_a_denied_entry_that_is_no_network_is_refused() -> None:
    """A network must be given by its own address."""
    with pytest.raises(ValueError, match="host bits set"):
        AddressGuard(deny=["10.0.0.1/8"])
