"""Forwarded fields: whose are believed, what they say, and what a client cannot make them say."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.errors import ConfigError
from bridges.translate.forwarded import MAX_HOPS, Forwarded, TrustedPeers, forwarded

ISSUE = pytest.mark.spec("issue 4", "4. Sockets, TLS, process")
PROXIES = "127.0.0.1,::1,10.0.0.0/8,fd00::/8,unix"
PEER = ("127.0.0.1", 1234)
CLIENT = "192.0.2.7"


def read(*fields: tuple[str, str], peer: Any = PEER, trusted: str = PROXIES) -> Forwarded | None:
    """Read fields as a trusted peer sends them."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    return forwarded([(b"accept", b"*/*"), *headers], peer, TrustedPeers(trusted))


def standard(value: str, prefix: str = "", trusted: str = PROXIES) -> Forwarded:
    """Read Forwarded, and X-Forwarded-Prefix beside it."""
    found = read(("forwarded", value), ("x-forwarded-prefix", prefix), trusted=trusted)
    assert found is not None
    return found


def x(trusted: str = PROXIES, **values: str) -> Forwarded:
    """Read X-Forwarded-* fields: ``x(proto="https")``; ``host_field`` is Host."""
    fields = [("host", values.pop("host_field"))] if "host_field" in values else []
    found = read(*fields, *((f"x-forwarded-{k}", v) for k, v in values.items()), trusted=trusted)
    assert found is not None
    return found


class Counting(TrustedPeers):
    """Count how often somebody asks."""

    __slots__ = ("asked",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.asked = 0

    def trusts(self, host: str | None) -> bool:
        self.asked += 1
        return super().trusts(host)


class TestTrustedPeers:
    @ISSUE
    @pytest.mark.parametrize(
        ("text", "host", "expected"),
        [
            ("127.0.0.1,::1,unix", "127.0.0.1", True),
            ("127.0.0.1,::1,unix", "::1", True),
            ("127.0.0.1,::1,unix", None, True),
            ("127.0.0.1,::1,unix", "127.0.0.2", False),
            ("127.0.0.1,::1,unix", "10.0.0.1", False),
            ("127.0.0.1", None, False),
            ("unix", "127.0.0.1", False),
            # Networks.
            ("10.0.0.0/8", "10.255.255.255", True),
            ("10.0.0.0/8", "11.0.0.0", False),
            ("10.0.0.0/255.0.0.0", "10.1.2.3", True),
            ("2001:db8::/32", "2001:db8:ffff::1", True),
            ("2001:db8::/32", "2001:db9::1", False),
            ("0.0.0.0/0", "192.0.2.1", True),
            ("0.0.0.0/0", "2001:db8::1", False),
            ("::/0", "192.0.2.1", False),
            # The same address, written otherwise.
            ("2001:db8::1", "2001:0DB8:0:0:0:0:0:1", True),
            ("127.0.0.1", "::ffff:127.0.0.1", True),
            ("127.0.0.1", "::ffff:7f00:1", True),
            ("::ffff:127.0.0.1", "127.0.0.1", True),
            ("::ffff:10.0.0.0/104", "10.1.2.3", True),
            ("::ffff:10.0.0.0/104", "11.1.2.3", False),
            ("::/0", "::ffff:192.0.2.1", False),
            ("fe80::1", "fe80::1%eth0", True),
            # Everybody and nobody.
            ("*", "192.0.2.1", True),
            ("*", None, True),
            ("*", "testclient", True),
            ("127.0.0.1,*", "192.0.2.1", True),
            ("", "127.0.0.1", False),
            ("", None, False),
            # No address.
            ("127.0.0.1", "", False),
            ("127.0.0.1", "localhost", False),
            ("0.0.0.0/0,::/0", "testclient", False),
            # Blanks between entries.
            (" 127.0.0.1 , ::1,", "::1", True),
            (" 127.0.0.1 , ::1,", "", False),
        ],
    )
    def test_trusts(self, text: str, host: str | None, expected: bool) -> None:
        """A peer is trusted when it is in the list, in whatever form its address comes."""
        trusted = TrustedPeers(text)

        assert trusted.trusts(host) is expected
        assert trusted.trusts(host) is expected

    @ISSUE
    @pytest.mark.parametrize(
        "entry",
        ["localhost", "127.0.0.1:80", "[::1]", "10.0.0.1/8", "10.0.0.0/33", "127.1", "**", "UNIX"],
    )
    def test_a_bad_entry(self, entry: str) -> None:
        """An entry that is no address, network, * or unix is refused in one sentence that names it."""
        with pytest.raises(ConfigError) as caught:
            TrustedPeers(f"127.0.0.1, {entry}")

        assert str(caught.value).startswith("forwarded_allow_ips must be ")
        assert repr(entry) in str(caught.value)
        assert str(caught.value).isprintable()

    @ISSUE
    def test_a_bad_entry_is_cut(self) -> None:
        """The sentence stays readable whatever was typed."""
        with pytest.raises(ConfigError) as caught:
            TrustedPeers("\n" * 3 + "x\n" * 10_000)

        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400

    @ISSUE
    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        """Any text either gives a list or ConfigError."""
        try:
            trusted = TrustedPeers(text)
        except ConfigError as error:
            assert str(error).isprintable()
        else:
            assert trusted.trusts(None) is bool(
                {"*", "unix"} & set(map(str.strip, text.split(",")))
            )


class TestWhetherToRead:
    @ISSUE
    @pytest.mark.parametrize("peer", [("192.0.2.1", 1), ("::ffff:192.0.2.1", 1), ("", 0)])
    def test_a_peer_that_is_not_trusted(self, peer: tuple[str, int]) -> None:
        """The fields of anybody else are not read."""
        assert read(("x-forwarded-for", CLIENT), ("forwarded", "for=192.0.2.8"), peer=peer) is None

    @ISSUE
    def test_a_unix_peer(self) -> None:
        """A peer on a unix socket is believed where the list says unix, and only there."""
        field = ("x-forwarded-for", CLIENT)

        assert read(field, peer=None) == Forwarded((CLIENT, 0), None, None, None)
        assert read(field, peer=None, trusted="127.0.0.1") is None

    @ISSUE
    @pytest.mark.parametrize(
        "name", ["x_forwarded_for", "x-forwarded", "x-real-ip", "forwarded-for"]
    )
    def test_other_fields(self, name: str) -> None:
        """Without one of the six fields there is nothing to say."""
        assert read((name, CLIENT)) is None

    @ISSUE
    @pytest.mark.parametrize(
        "name",
        ["forwarded", *(f"x-forwarded-{w}" for w in ("for", "proto", "host", "port", "prefix"))],
    )
    @pytest.mark.parametrize("peer", [PEER, None])
    def test_malformed_is_as_absent(self, name: str, peer: Any) -> None:
        """A field that says nothing readable changes nothing: the client is the peer."""
        for value in ("", " ", ",", "\x00", "\xff", '"', "<script>", "a b"):
            assert read((name, value), peer=peer) == Forwarded(peer, None, None, None)


class TestClient:
    """The walk, in both notations."""

    @ISSUE
    @pytest.mark.spec("RFC 7239", "section 5.2")
    @pytest.mark.parametrize(
        ("hops", "expected"),
        [
            ([CLIENT], (CLIENT, 0)),
            # Right to left: the first that is not trusted, whatever stands before it.
            (["198.51.100.1", CLIENT], (CLIENT, 0)),
            ([CLIENT, "10.0.0.1"], (CLIENT, 0)),
            (["198.51.100.1", CLIENT, "10.0.0.2", "10.0.0.1"], (CLIENT, 0)),
            (["127.0.0.1", CLIENT], (CLIENT, 0)),
            (["unknown", CLIENT], (CLIENT, 0)),
            # All are trusted: the leftmost.
            (["10.0.0.3", "10.0.0.2", "10.0.0.1"], ("10.0.0.3", 0)),
            (["127.0.0.1"], ("127.0.0.1", 0)),
            # Ports, IPv6.
            ([f"{CLIENT}:4711"], (CLIENT, 4711)),
            ([CLIENT, "10.0.0.1:80"], (CLIENT, 0)),
            (["[2001:db8::7]"], ("2001:db8::7", 0)),
            (["[2001:db8::7]:4711"], ("2001:db8::7", 4711)),
            (["2001:db8::7"], ("2001:db8::7", 0)),
            (["2001:DB8:0:0:0:0:0:7"], ("2001:db8::7", 0)),
            (["::"], ("::", 0)),
            ([CLIENT, "[fd00::1]:8080"], (CLIENT, 0)),
            ([CLIENT, "::ffff:10.0.0.1"], (CLIENT, 0)),
            (["::ffff:192.0.2.7"], (CLIENT, 0)),
            ([f"{CLIENT}:_obfuscated"], (CLIENT, 0)),
            ([f"{CLIENT}:65535"], (CLIENT, 65535)),
            # Hidden: nobody knows, and nothing before it is read.
            (["unknown"], None),
            (["Unknown"], None),
            (["unknown:4711"], None),
            (["_hidden"], None),
            (["_SEVKISEK:_p0rt"], None),
            ([CLIENT, "unknown"], None),
            ([CLIENT, "_hidden", "10.0.0.1"], None),
            # Malformed: as if the list began after it.
            ([CLIENT, "300.1.1.1"], PEER),
            ([CLIENT, "localhost"], PEER),
            ([CLIENT, "[::1"], PEER),
            ([CLIENT, "::1]"], PEER),
            ([CLIENT, "[1.2.3.4]x"], PEER),
            ([CLIENT, "1.2.3.4:"], PEER),
            ([CLIENT, "1.2.3.4:x"], PEER),
            ([CLIENT, "1.2.3.4:65536"], PEER),
            ([CLIENT, "1.2.3.4:123456"], PEER),
            ([CLIENT, "1.2.3"], PEER),
            ([CLIENT, "0x7f000001"], PEER),
            ([CLIENT, "01.02.03.04"], PEER),
            ([CLIENT, "1:2:3:4:5:6:7:8:9"], PEER),
            ([CLIENT, "12345::1"], PEER),
            ([CLIENT, "fe80::1%eth0"], PEER),
            ([CLIENT, "_"], PEER),
            ([CLIENT, "unknown_"], PEER),
            ([CLIENT, "1.2.3.4 5.6.7.8"], PEER),
            ([CLIENT, "garbage", "10.0.0.1"], ("10.0.0.1", 0)),
        ],
    )
    def test_both_notations(self, hops: list[str], expected: Any) -> None:
        """The client is the first address that is not trusted, from the right."""
        assert x(**{"for": ", ".join(hops)}).client == expected
        assert standard(", ".join(f'for="{hop}"' for hop in hops)).client == expected

    @ISSUE
    def test_everybody_is_trusted(self) -> None:
        """Where the list is *, the leftmost address is the client."""
        hops = [CLIENT, "198.51.100.1", "203.0.113.1"]

        assert x(trusted="*", **{"for": ",".join(hops)}).client == (CLIENT, 0)
        assert standard(",".join(f"for={h}" for h in hops), trusted="*").client == (CLIENT, 0)

    @ISSUE
    @pytest.mark.spec("RFC 9110", "section 5.3")
    @pytest.mark.parametrize("template", [("x-forwarded-for", "{}"), ("forwarded", "for={}")])
    def test_fields_of_one_name_are_one_list(self, template: tuple[str, str]) -> None:
        """A proxy may append by writing a field of its own."""
        name, form = template
        found = read(*((name, form.format(a)) for a in ("198.51.100.1", CLIENT, "10.0.0.1")))

        assert found is not None
        assert found.client == (CLIENT, 0)

    @ISSUE
    @pytest.mark.spec("RFC 9110", "section 5.6.1")
    @pytest.mark.parametrize("gap", [",", ",,", ", ,", "\t,\t ,, "])
    def test_empty_elements_do_not_count(self, gap: str) -> None:
        """Empty elements of a list are skipped, also by those who count from the end."""
        hops = gap.join(["198.51.100.1", CLIENT, "10.0.0.1"])
        protos = gap.join(["http", "https", "http"])
        elements = gap.join(["for=198.51.100.1", f"for={CLIENT};proto=https", "for=10.0.0.1"])

        for found in (
            x(**{"for": f"{hops}{gap}", "proto": f"{protos}{gap}"}),
            standard(f"{elements}{gap}"),
        ):
            assert (found.client, found.scheme) == ((CLIENT, 0), "https")


class TestStandard:
    """RFC 7239."""

    @ISSUE
    @pytest.mark.spec("RFC 7239", "section 4")
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            # The examples of the RFC.
            ('for="_gazonk"', Forwarded(None, None, None, None)),
            (
                'For="[2001:db8:cafe::17]:4711"',
                Forwarded(("2001:db8:cafe::17", 4711), None, None, None),
            ),
            (
                "for=192.0.2.60;proto=http;by=203.0.113.43",
                Forwarded(("192.0.2.60", 0), "http", None, None),
            ),
            (
                "for=192.0.2.43, for=198.51.100.17",
                Forwarded(("198.51.100.17", 0), None, None, None),
            ),
            # Names and schemes in any case, empty pairs, white space.
            ("FOR=192.0.2.7;PROTO=HTTPS;Host=H", Forwarded((CLIENT, 0), "https", b"H", None)),
            ("for=192.0.2.7;;proto=wss;", Forwarded((CLIENT, 0), "wss", None, None)),
            (" for=192.0.2.7 ; proto=https ", Forwarded((CLIENT, 0), "https", None, None)),
            # Quoted strings.
            (
                'for="192.0.2.7";proto="https";host="h:8443"',
                Forwarded((CLIENT, 0), "https", b"h:8443", None),
            ),
            (r'for="192\.0.2.7";proto="h\ttps"', Forwarded((CLIENT, 0), "https", None, None)),
            ('for=192.0.2.7;by="a, for=10.0.0.1;b"', Forwarded((CLIENT, 0), None, None, None)),
            (r'for=192.0.2.7;by="\"=\",\\"', Forwarded((CLIENT, 0), None, None, None)),
            ('for=192.0.2.7;by="=";x=""', Forwarded((CLIENT, 0), None, None, None)),
            # Without the quotation marks that it should have.
            (
                "for=[2001:db8::7]:80;host=h:8443",
                Forwarded(("2001:db8::7", 80), None, b"h:8443", None),
            ),
            # Malformed values in an element whose syntax is right.
            ("for=192.0.2.7;proto=gopher;host=a/b", Forwarded((CLIENT, 0), None, None, None)),
            ("for=;proto=https", Forwarded(PEER, "https", None, None)),
            ("proto=https;host=h", Forwarded(PEER, "https", b"h", None)),
            # An element without address ends the walk: who wrote the one before it is not known.
            ("for=192.0.2.7, proto=https", Forwarded(PEER, "https", None, None)),
        ],
    )
    def test_one_element(self, value: str, expected: Forwarded) -> None:
        """The last element is read by the grammar of the RFC, and what is malformed in it left out."""
        assert standard(value) == expected

    @ISSUE
    @pytest.mark.spec("RFC 7239", "section 4")
    @pytest.mark.parametrize(
        "element",
        ["for", "=a", "for=a b", "for==a", "a=b=c", 'for="a', 'for=a"', 'for="a"b', 'f="a\\"',
         'f="\x01"', "for=10.0.0.2", "FOR=x", "by=_a;by=_a", "for =a", "for= a", "(=a", "f=\x01",
         'f="a\\\x00"'],
    )  # fmt: skip
    def test_malformed_elements(self, element: str) -> None:
        """An element with wrong syntax ends the list, and what is on its right stays."""
        found = standard(f"for={CLIENT}, for=10.0.0.2;{element}, for=10.0.0.1;proto=https")

        assert found == Forwarded(("10.0.0.1", 0), "https", None, None)

    @ISSUE
    @pytest.mark.spec("RFC 7239", "section 8.1")
    @pytest.mark.parametrize(
        "spoilt",
        ['for="', 'for="a, ', 'x="\\', '"', '="', 'for=127.0.0.1;x="', "for=a;", 'x="a";"', "\\"],
    )
    @pytest.mark.parametrize(
        "own",
        [
            f"for={CLIENT};proto=https;host=h",
            f'for="{CLIENT}";proto="https";host="h"',
            f'host="h";proto=https;by="_p";for="{CLIENT}"',
        ],
    )
    def test_the_client_cannot_spoil_the_proxys_element(self, spoilt: str, own: str) -> None:
        """An open quotation mark from the client does not swallow what the proxy appends."""
        assert standard(f"{spoilt}, {own}") == Forwarded((CLIENT, 0), "https", b"h", None)

    @ISSUE
    @pytest.mark.spec("RFC 7239", "section 7.4")
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            # What the client used, as its proxy says.
            (
                "for=192.0.2.7;proto=https;host=out, for=10.0.0.1;proto=http;host=in",
                ("https", b"out"),
            ),
            # The outer proxy does not say: the next nearer one does.
            ("for=192.0.2.7, for=10.0.0.1;proto=https;host=in", ("https", b"in")),
            ("for=192.0.2.7;host=out, for=10.0.0.1;proto=https;host=in", ("https", b"out")),
            ("for=192.0.2.7;proto=x;host=a b, for=10.0.0.1;proto=https", ("https", None)),
            # Written by the client itself.
            ("for=10.0.0.9;proto=https;host=evil, for=192.0.2.7", (None, None)),
            ("for=10.0.0.9;proto=https;host=evil, for=192.0.2.7;proto=http", ("http", None)),
            ("for=10.0.0.9;proto=https;host=evil, for=_hidden;host=h", (None, b"h")),
        ],
    )
    def test_scheme_and_host(self, value: str, expected: tuple[str | None, bytes | None]) -> None:
        """Scheme and host are the outermost that a trusted proxy tells."""
        found = standard(value)

        assert (found.scheme, found.host) == expected

    @ISSUE
    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            (("x-forwarded-for", "192.0.2.8"), Forwarded(("192.0.2.8", 0), None, None, "/app")),
            (("x-forwarded-for", "garbage"), Forwarded(PEER, None, None, "/app")),
            (("x-forwarded-proto", "https"), Forwarded(PEER, "https", None, "/app")),
            (("x-forwarded-host", "x"), Forwarded(PEER, None, b"x", "/app")),
            (("x-forwarded-port", "80"), Forwarded(PEER, None, None, "/app")),
            (("x-forwarded-for", " , "), Forwarded((CLIENT, 0), "http", b"h", "/app")),
            (("x-forwarded-proto", ""), Forwarded((CLIENT, 0), "http", b"h", "/app")),
        ],
    )
    def test_the_others_go_before_it(self, other: tuple[str, str], expected: Forwarded) -> None:
        """A Forwarded that a client made up does not count beside what its proxy wrote; the prefix goes with both."""
        own = ("forwarded", f"for={CLIENT};proto=http;host=h")

        assert read(own, other, ("x-forwarded-prefix", "/app")) == expected


class TestX:
    """X-Forwarded-*."""

    @ISSUE
    @pytest.mark.parametrize(
        ("hops", "protos", "expected"),
        [
            # One value for all.
            (CLIENT, "https", "https"),
            (f"{CLIENT}, 10.0.0.1", "https", "https"),
            (f"{CLIENT}, 10.0.0.2, 10.0.0.1", "https", "https"),
            # One for each: that of the client's element.
            (f"{CLIENT}, 10.0.0.1", "https, http", "https"),
            (f"{CLIENT}, 10.0.0.1", "http, https", "http"),
            # The client wrote the first ones.
            (f"10.0.0.9, {CLIENT}", "https, http", "http"),
            (CLIENT, "https, http", "http"),
            (f"{CLIENT}, 10.0.0.1", "https, http, https", "http"),
            # Fewer than hops: the last, which the nearest proxy wrote.
            (f"{CLIENT}, 10.0.0.2, 10.0.0.1", "https, http", "http"),
            # Without addresses: the last.
            ("", "https, http", "http"),
            ("", "http, https", "https"),
            # Hidden.
            ("unknown", "https", "https"),
            # In any case, and these four only.
            (CLIENT, "HTTPS", "https"),
            (CLIENT, "ws", "ws"),
            (CLIENT, "wss", "wss"),
            (CLIENT, "ftp", None),
            (CLIENT, "https:", None),
            (CLIENT, "https http", None),
            (CLIENT, "https, ftp", None),
        ],
    )
    def test_proto(self, hops: str, protos: str, expected: str | None) -> None:
        """The scheme is the value as far from the end as the client is, or else the last."""
        assert x(**{"for": hops, "proto": protos}).scheme == expected

    @ISSUE
    @pytest.mark.spec("RFC 9110", "section 7.2")
    @pytest.mark.parametrize(
        ("host", "valid"),
        [
            ("example.org", True), ("EXAMPLE.org", True), ("example.org:8443", True), ("a", True),
            ("my_service", True), ("xn--bcher-kva.example", True), ("192.0.2.1:80", True), ("example.org.", True),
            ("[2001:db8::1]", True), ("[2001:db8::1]:8443", True), ("[::ffff:192.0.2.1]", True), ("h:65535", True),
            ("", False), ("user@example.org", False), ("example.org/path", False), ("example .org", False),
            ("example.org:", False), ("example.org:http", False), ("example.org:65536", False), ("h:0", False),
            ("h:123456", False), ("h:80:80", False), (":80", False), ("2001:db8::1", False), ("[::1", False),
            ("::1]", False), ("[]", False), ("[::1]x", False), ("[192.0.2.1]", False), ("[:::1]", False),
            ("[fe80::1%25eth0]", False), ("b\xfccher.example", False), ("a%2eb", False), ("a?b", False),
            ("a#b", False), ("a\\b", False), ("a\"b", False), ("<a>", False), ("a\rb", False), ("a\nb", False),
            ("a\n", False), ("a\x00", False), (".a", False), ("-a", False), ("a" * 256, False),
        ],
    )  # fmt: skip
    def test_host(self, host: str, valid: bool) -> None:
        """A host is a name or an address, with a port or without, and nothing else."""
        expected = host.encode("latin-1") if valid else None

        assert x(host=host).host == expected
        quoted = host.replace("\\", "\\\\").replace('"', '\\"')
        assert standard(f'host="{quoted}"').host == expected

    @ISSUE
    def test_host_of_a_hop(self) -> None:
        """Of several hosts that is taken which belongs to the client's element."""
        hops = f"{CLIENT}, 10.0.0.1"

        assert x(**{"for": hops, "host": "evil, out, in"}).host == b"out"
        assert x(**{"for": CLIENT, "host": "evil, out"}).host == b"out"
        assert x(**{"for": hops, "host": "out"}).host == b"out"

    @ISSUE
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            # Added where it is not the one of the scheme.
            ({"host": "h", "port": "8443", "proto": "https"}, b"h:8443"),
            ({"host": "h", "port": "443", "proto": "https"}, b"h"),
            ({"host": "h", "port": "80", "proto": "https"}, b"h:80"),
            ({"host": "h", "port": "443", "proto": "http"}, b"h:443"),
            ({"host": "h", "port": "80", "proto": "ws"}, b"h"),
            ({"host": "h", "port": "443", "proto": "wss"}, b"h"),
            ({"host": "[::1]", "port": "8443", "proto": "https"}, b"[::1]:8443"),
            # The scheme is not known.
            ({"host": "h", "port": "443"}, b"h"),
            ({"host": "h", "port": "80"}, b"h"),
            ({"host": "h", "port": "8080"}, b"h:8080"),
            # The host has one.
            ({"host": "h:81", "port": "8443"}, b"h:81"),
            ({"host": "[::1]:81", "port": "8443"}, b"[::1]:81"),
            # Host itself.
            ({"host_field": "own", "port": "8443"}, b"own:8443"),
            ({"host_field": "own:81", "port": "8443"}, b"own:81"),
            ({"host_field": "own", "port": "443"}, None),
            ({"host_field": "own", "host": "h", "port": "8443"}, b"h:8443"),
            ({"host_field": "a b", "port": "8443"}, None),
            ({"port": "8443"}, None),
            # Of several, that of the client's element.
            ({"for": f"{CLIENT}, 10.0.0.1", "host": "h", "port": "1, 8443, 8080"}, b"h:8443"),
            # Malformed.
            ({"host": "h", "port": "0"}, b"h"),
            ({"host": "h", "port": "65536"}, b"h"),
            ({"host": "h", "port": "x"}, b"h"),
            ({"host": "h", "port": "-1"}, b"h"),
            ({"host": "h", "port": "\xb2"}, b"h"),
            ({"host": "h", "port": "1" * 5000}, b"h"),
        ],
    )  # fmt: skip
    def test_port(self, values: dict[str, str], expected: bytes | None) -> None:
        """The port is the server's: it completes a host that has none."""
        assert x(**values).host == expected

    @ISSUE
    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("/app", "/app"), ("/app/", "/app"), ("/a/b", "/a/b"), ("/a.b/c-d_e~f", "/a.b/c-d_e~f"),
            ("/a%20b", "/a b"), ("/%C3%A9", "/\xe9"), ("/a:b@c!$&'()*+;=", "/a:b@c!$&'()*+;="),
            ("/", None), ("", None), ("app", None), ("//app", None), ("/a//b", None), ("/app//", None),
            ("/..", None), ("/a/../b", None), ("/a..", None), ("/%2e%2e/a", None), ("/%2f/a", None),
            ("/a b", None), ("/a\x00", None), ("/%00", None), ("/a%0Ab", None), ("/%C2%9B", None), ("/a\n", None),
            ("/%ff", None), ("/%", None), ("/%g0", None), ("/a?b", None), ("/a#b", None), ("/a\\b", None),
            ("/%5c", None), ("/\xe9", None), ("http://h/a", None),
        ],
    )  # fmt: skip
    def test_prefix(self, prefix: str, expected: str | None) -> None:
        """A prefix is an absolute path that cannot lead elsewhere, decoded, without a slash at its end."""
        assert x(prefix=prefix).prefix == expected
        assert standard("for=_a", prefix=prefix).prefix == expected

    @ISSUE
    def test_prefix_of_a_hop(self) -> None:
        """Of several prefixes that is taken which belongs to the client's element, in both notations."""
        prefixes = ("x-forwarded-prefix", "/evil, /out, /in")
        for field in (
            ("x-forwarded-for", f"{CLIENT}, 10.0.0.1"),
            ("forwarded", f"for={CLIENT}, for=10.0.0.1"),
        ):
            found = read(field, prefixes)
            assert found is not None
            assert found.prefix == "/out"


class TestHostileInput:
    @ISSUE
    @pytest.mark.parametrize(
        "form", [("x-forwarded-for", b"10.0.0.1"), ("forwarded", b"for=10.0.0.1")]
    )
    @pytest.mark.parametrize("as_fields", [True, False])
    def test_thousands_of_elements(self, form: tuple[str, bytes], as_fields: bool) -> None:
        """No more elements are looked at than MAX_HOPS, from the nearest proxy on."""
        name, element = form[0].encode(), form[1]
        first = element.replace(b"10.0.0.1", CLIENT.encode())
        elements = [first, *[element] * 20_000]
        fields = [(name, e) for e in elements] if as_fields else [(name, b",".join(elements))]
        trusted = Counting("127.0.0.1,10.0.0.0/8")

        found = forwarded(fields, PEER, trusted)

        assert found == Forwarded(("10.0.0.1", 0), None, None, None)
        assert trusted.asked == 1 + MAX_HOPS

    @ISSUE
    @pytest.mark.parametrize("form", [("x-forwarded-for", "{}"), ("forwarded", "for={}")])
    @pytest.mark.parametrize(("extra", "expected"), [(1, (CLIENT, 0)), (0, ("10.0.0.1", 0))])
    def test_the_last_element_that_is_looked_at(
        self, form: tuple[str, str], extra: int, expected: tuple[str, int]
    ) -> None:
        """A client that is the MAX_HOPS-th element is found, one before that is not."""
        hops = [CLIENT, *["10.0.0.1"] * (MAX_HOPS - extra)]

        found = read((form[0], ",".join(map(form[1].format, hops))))

        assert found is not None
        assert found.client == expected

    @ISSUE
    @pytest.mark.parametrize(
        "piece",
        ['"', '="', '"=', 'a="', '\\"', '\\', 'a=";', ";", ",", "a=b;", "=", " ", "a", "a=", '"a', "[", ":", "1", "_",
         "a ", "\t=", "/", "%41", "."],
    )  # fmt: skip
    @pytest.mark.parametrize("end", ["", '"', '="x"', ";for=_a"])
    def test_time_is_linear(self, piece: str, end: str) -> None:
        """A quarter of a megabyte of one piece is read within the time limit of a test, which a square of it is not."""
        value = piece * (250_000 // len(piece)) + end
        fields = [
            ("x-forwarded-" + name, value) for name in ("for", "proto", "host", "port", "prefix")
        ]

        assert read(("forwarded", value), *fields) is not None
        assert read(*fields) is not None


ADDRESSES = st.ip_addresses().map(str)
NODES = st.one_of(
    ADDRESSES,
    ADDRESSES.map("[{}]".format),
    st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(0, 70_000)),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(0, 70_000)),
    st.sampled_from(["unknown", "_hidden", "10.0.0.1", "::1", "::ffff:10.0.0.1", "garbage", ""]),
)
PAIRS = st.one_of(
    NODES.map('for="{}"'.format),
    NODES.map("for={}".format),
    st.sampled_from(["proto=https", "host=h", 'by="a,b"', 'x="\\""', '"', 'x="', ";", "\\"]),
)
ELEMENTS = st.lists(PAIRS, max_size=3).map(";".join)
NAMES = st.sampled_from(
    ["forwarded", "host", *(f"x-forwarded-{w}" for w in ("for", "proto", "host", "port", "prefix"))]
).map(str.encode)
VALUES = st.one_of(
    st.binary(max_size=60),
    st.lists(NODES | ELEMENTS, max_size=5).map(lambda hops: ",".join(hops).encode()),
    st.text(alphabet='for=";,\\ 12.:[]_/', max_size=40).map(str.encode),
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)
PEERS = st.none() | st.tuples(ADDRESSES, st.integers(0, 65535)) | st.just(PEER)
TRUSTED = st.sampled_from(["*", PROXIES, "127.0.0.1", "0.0.0.0/0,::/0,unix"]).map(TrustedPeers)


def addresses_in(headers: Sequence[tuple[bytes, bytes]]) -> set[str]:
    """Give every address that stands anywhere in the headers, in the form that a client gets."""
    found = set()
    for _, value in headers:
        text = value.decode("latin-1").replace("\\", "")
        for word in re.split(r"[^0-9A-Fa-f.:]+", text):
            for candidate in (word, word.rpartition(":")[0]):
                try:
                    address = ipaddress.ip_address(candidate)
                except ValueError:
                    continue
                mapped = getattr(address, "ipv4_mapped", None)
                found.add(str(mapped or address))
    return found


@ISSUE
@given(headers=HEADERS, peer=PEERS, trusted=TRUSTED)
def test_any_bytes(
    headers: list[tuple[bytes, bytes]], peer: tuple[str, int] | None, trusted: TrustedPeers
) -> None:
    """Any bytes are read without an exception; what comes out is well-formed, and the client is named by somebody."""
    found = forwarded(headers, peer, trusted)
    if found is None:
        assert not trusted.trusts(peer and peer[0]) or all(name == b"host" for name, _ in headers)
        return

    assert found.client in (peer, None) or found.client[0] in addresses_in(headers)
    assert found.client is None or 0 <= found.client[1] <= 65_535
    assert found.scheme in (None, "http", "https", "ws", "wss")
    assert found.host is None or re.fullmatch(
        rb"([\w.-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?", found.host
    )
    assert found.prefix is None or (found.prefix[0] == "/" and found.prefix[-1] != "/")
    assert found.prefix is None or not re.search(r"//|\.\.|[\x00-\x1f]", found.prefix)


@ISSUE
@given(headers=HEADERS, spoofed=VALUES, name=st.sampled_from([b"forwarded", b"x-forwarded-for"]))
def test_no_client_can_pass_for_another(
    headers: list[tuple[bytes, bytes]], spoofed: bytes, name: bytes
) -> None:
    """Whatever a client writes into the field, the proxy's element at its end says who it is."""
    own = f"for={CLIENT};proto=https;host=h" if name == b"forwarded" else CLIENT
    rest = [field for field in headers if field[0] in (b"host", b"x-forwarded-prefix")]
    found = forwarded([*rest, (name, spoofed + b", " + own.encode())], PEER, TrustedPeers(PROXIES))

    assert found is not None
    assert found.client == (CLIENT, 0)
    if name == b"forwarded":
        assert (found.scheme, found.host) == ("https", b"h")
