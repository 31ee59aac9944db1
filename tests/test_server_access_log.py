"""The access log: what its lines say, and that no client can forge one."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridges.server.access_log import AccessLog

ISSUE = pytest.mark.spec("issue 4", "4. Sockets, TLS, process")

# 10 October 2000, 13:55:36 UTC: the moment in Apache's own example.
MOMENT = 971_186_136
SAFE = r'[!#-\[\]-~]|\\["\\]|\\x[0-9a-f]{2}'
COMMON = re.compile(
    rf'(?P<client>(?:{SAFE})+) - - \[(?P<time>[^\]]+)\] "(?P<request>(?:{SAFE}| )*)"'
    r" (?P<status>\d{3}) (?P<bytes>\d+|-)"
)


class Kept(logging.Handler):
    """Keep what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def lines(self) -> list[str]:
        """Give the lines of a handler that is set up as usual, and forget them."""
        text = "".join(self.format(record) + "\n" for record in self.records)
        self.records.clear()
        return text.splitlines()


class Untouchable:
    """Fail whoever looks at it."""

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)

    def __iter__(self) -> Iterator[Any]:
        raise LookupError("__iter__")


@contextlib.contextmanager
def keeping() -> Iterator[Kept]:
    """Keep what the access log writes, and leave its logger as it was."""
    logger, handler = logging.getLogger("bridges.access"), Kept()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture
def kept() -> Iterator[Kept]:
    with keeping() as handler:
        yield handler


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    name = getattr(request, "param", "UTC0")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        yield name
    time.tzset()


def unescaped(text: str) -> bytes:
    """Read a field of the common format back."""

    def byte(found: re.Match[str]) -> str:
        return chr(int(found[1], 16)) if found[1] else found[2]

    return re.sub(r'\\x(..)|\\(["\\])', byte, text).encode("latin-1")


def log(line_format: Any, **changes: Any) -> None:
    """Log a request of which only some facts matter."""
    facts: dict[str, Any] = {
        "client": "192.0.2.7",
        "method": "GET",
        "target": b"/x",
        "http_version": "1.1",
        "status": 200,
        "body_bytes": 2326,
        "seconds": 0.25,
        "headers": [],
        "when": MOMENT,
    }
    AccessLog(line_format).log(**{**facts, **changes})


def common(kept: Kept, **changes: Any) -> str:
    log("common", **changes)
    (line,) = kept.lines()
    return line


def as_json(kept: Kept, **changes: Any) -> dict[str, Any]:
    log("json", **changes)
    (line,) = kept.lines()
    assert line.isascii()
    assert line.isprintable()
    found: dict[str, Any] = json.loads(line)
    return found


@ISSUE
@pytest.mark.spec("Apache mod_log_config", "Common Log Format")
def test_the_common_line(kept: Kept, zone: str) -> None:
    """A line has the seven fields of the Common Log Format, in their order."""
    line = common(kept)

    assert line == '192.0.2.7 - - [10/Oct/2000:13:55:36 +0000] "GET /x HTTP/1.1" 200 2326'


@ISSUE
@pytest.mark.spec("RFC 8259", "section 4")
def test_the_json_line(kept: Kept, zone: str) -> None:
    """A line is an object with ten keys, and nothing else."""
    headers = [(b"host", b"h"), (b"user-agent", b"curl/8"), (b"referer", b"http://h/")]

    assert as_json(kept, headers=headers, when=MOMENT + 0.5) == {
        "time": "2000-10-10T13:55:36.500+00:00",
        "client": "192.0.2.7",
        "method": "GET",
        "target": "/x",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 2326,
        "seconds": 0.25,
        "user_agent": "curl/8",
        "referer": "http://h/",
    }


@ISSUE
def test_a_record_is_an_ordinary_one(kept: Kept) -> None:
    """A handler gets a record of bridges.access at level INFO, whose message is the line as it is."""
    log("common", target=b"/100%s%d")
    (record,) = kept.records

    assert (record.name, record.levelno, record.args) == ("bridges.access", logging.INFO, ())
    assert "/100%s%d" in record.getMessage()


@ISSUE
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"client": None}, '- - - [] "GET /x HTTP/1.1" 200 2326'),
        ({"client": "2001:db8::1"}, '2001:db8::1 - - [] "GET /x HTTP/1.1" 200 2326'),
        ({"body_bytes": 0, "status": 304}, '192.0.2.7 - - [] "GET /x HTTP/1.1" 304 -'),
        ({"method": "", "target": b"", "status": 400}, '192.0.2.7 - - [] "-" 400 2326'),
    ],
)
def test_what_is_not_there(kept: Kept, changes: dict[str, Any], expected: str) -> None:
    """A hyphen stands for an address, a request line, or body bytes that are not there."""
    assert re.sub(r"\[.*\]", "[]", common(kept, **changes)) == expected


@ISSUE
def test_what_is_not_there_in_json(kept: Kept) -> None:
    """In JSON null stands for what is not known, and a body without bytes has 0."""
    found = as_json(kept, client=None, method="", target=b"", body_bytes=0)

    unknown = {"client", "method", "target", "protocol", "user_agent", "referer"}
    assert {key for key, value in found.items() if value is None} == unknown
    assert found["bytes"] == 0


@ISSUE
@pytest.mark.spec("Apache mod_log_config", "Custom Log Formats: notes on escapes")
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a b", "/a b"),
        (b'/"', '/\\"'),
        (b"/\\", "/\\\\"),
        (b"/\\x41", "/\\\\x41"),
        (b"/\r\n", "/\\x0d\\x0a"),
        (b"/\x1b[2J", "/\\x1b[2J"),
        (b"/\x7f\x80\x9b\xff\x00", "/\\x7f\\x80\\x9b\\xff\\x00"),
        ("/é".encode(), "/\\xc3\\xa9"),
        (b'/" 200 1\n10.0.0.1 - - [x] "GET /', '/\\" 200 1\\x0a10.0.0.1 - - [x] \\"GET /'),
    ],
)
def test_escapes(kept: Kept, target: bytes, expected: str) -> None:
    """What could end a field or a line, or move a terminal, is written out."""
    assert f'"GET {expected} HTTP/1.1" 200 2326' in common(kept, target=target)


@ISSUE
@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("a b", "a\\x20b"),
        ('a"b', 'a\\"b'),
        ("a\\b", "a\\\\b"),
        ("a\nb", "a\\x0ab"),
        ("\xe9", "\\xe9"),
        ("\u0100", "\\xc4\\x80"),
        ("\u20ac", "\\xe2\\x82\\xac"),
        ("\ud800", "\\xed\\xa0\\x80"),
    ],
)
def test_escapes_of_the_client(kept: Kept, client: str, expected: str) -> None:
    """The first field, which has no quotation marks, holds no space either."""
    assert common(kept, client=client).startswith(f"{expected} - - [")


@ISSUE
@given(
    client=st.none() | st.text(min_size=1),
    method=st.text(min_size=1),
    target=st.binary(),
    http_version=st.text(max_size=3),
)
def test_any_request_is_one_common_line(
    client: str | None, method: str, target: bytes, http_version: str
) -> None:
    """Whatever a client sends, there is one line of printable ASCII with seven fields, the target among them."""
    with keeping() as kept:
        line = common(kept, client=client, method=method, target=target, http_version=http_version)
    found = COMMON.fullmatch(line)

    assert line.isascii()
    assert line.isprintable()
    assert found is not None
    assert (found["status"], found["bytes"]) == ("200", "2326")
    assert target in unescaped(found["request"])


@ISSUE
@pytest.mark.spec("RFC 8259", "section 7")
@given(
    client=st.none() | st.text(min_size=1),
    method=st.text(min_size=1),
    target=st.binary(),
    user_agent=st.binary(),
    referer=st.binary(),
)
def test_any_request_is_one_json_line(
    client: str | None, method: str, target: bytes, user_agent: bytes, referer: bytes
) -> None:
    """Whatever a client sends, there is one line of printable ASCII, and JSON gives all of it back."""
    headers = [(b"user-agent", user_agent), (b"referer", referer)]
    with keeping() as kept:
        found = as_json(kept, client=client, method=method, target=target, headers=headers)

    assert (found["client"], found["method"]) == (client, method)
    assert found["target"].encode("latin-1") == target
    assert found["user_agent"].encode("latin-1") == user_agent
    assert found["referer"].encode("latin-1") == referer


@ISSUE
@pytest.mark.parametrize(
    ("zone", "in_common", "in_json"),
    [
        ("UTC0", "10/Oct/2000:13:55:36 +0000", "2000-10-10T13:55:36.000+00:00"),
        ("IST-5:30", "10/Oct/2000:19:25:36 +0530", "2000-10-10T19:25:36.000+05:30"),
        ("NST3:30", "10/Oct/2000:10:25:36 -0330", "2000-10-10T10:25:36.000-03:30"),
        ("LINT-14", "11/Oct/2000:03:55:36 +1400", "2000-10-11T03:55:36.000+14:00"),
    ],
    indirect=["zone"],
)
def test_times_have_the_offset_of_the_zone(
    kept: Kept, zone: str, in_common: str, in_json: str
) -> None:
    """Times are those of the machine's zone, with its offset from UTC."""
    assert f"[{in_common}]" in common(kept)
    assert as_json(kept)["time"] == in_json


@ISSUE
@pytest.mark.parametrize("month", range(1, 13))
def test_months(kept: Kept, zone: str, month: int) -> None:
    """Months have their three English letters in the one format and their number in the other."""
    day = datetime.datetime(2024, month, 9, tzinfo=datetime.timezone.utc)
    names = "JanFebMarAprMayJunJulAugSepOctNovDec"

    assert f"[09/{names[month * 3 - 3 : month * 3]}/2024:00:00:00 +0000]" in common(
        kept, when=day.timestamp()
    )
    assert as_json(kept, when=day.timestamp())["time"].startswith(f"2024-{month:02d}-09T00:00:00")


@ISSUE
@pytest.mark.parametrize("line_format", ["common", "json"])
def test_the_kept_second_is_not_used_for_another_one(
    kept: Kept, zone: str, line_format: Any
) -> None:
    """Requests may end in any order: each line has the time of its own request."""
    access_log = AccessLog(line_format)
    for when in (0.0, MOMENT, MOMENT + 0.75, MOMENT + 1, MOMENT + 0.25, 0.0):
        access_log.log(None, "GET", b"/", "1.1", 200, 0, 0.0, [], when)

    clocks = [re.search(r"(\d\d:\d\d:\d\d)[ .]", line) for line in kept.lines()]
    assert [clock and clock[1] for clock in clocks] == [
        "00:00:00",
        "13:55:36",
        "13:55:36",
        "13:55:37",
        "13:55:36",
        "00:00:00",
    ]


@ISSUE
@pytest.mark.spec("RFC 8259", "section 6")
@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.000123, 1.0, 123456.5, 1e17])
def test_seconds_are_a_number_to_the_microsecond(kept: Kept, seconds: float) -> None:
    """The time that a request took is a JSON number in any magnitude."""
    assert as_json(kept, seconds=seconds)["seconds"] == pytest.approx(seconds, abs=1e-6)


@ISSUE
def test_common_does_not_look_at_the_headers(kept: Kept) -> None:
    """Only JSON lines cost a look at the headers."""
    assert common(kept, headers=Untouchable())
    with pytest.raises(LookupError, match="__iter__"):
        log("json", headers=Untouchable())


@ISSUE
@pytest.mark.parametrize("line_format", ["common", "json"])
def test_nothing_is_formatted_for_nobody(kept: Kept, line_format: Any) -> None:
    """Where the logger takes no INFO, the call looks at nothing."""
    access_log = AccessLog(line_format)
    assert access_log.enabled

    logging.getLogger("bridges.access").setLevel(logging.WARNING)
    assert not access_log.enabled
    log(line_format, target=Untouchable(), headers=Untouchable())
    assert kept.lines() == []

    logging.getLogger("bridges.access").setLevel(logging.INFO)
    with pytest.raises(LookupError):
        log(line_format, target=Untouchable())


@ISSUE
def test_filters_of_the_logger_apply(kept: Kept) -> None:
    """A filter of the logger can leave lines out, as health checks usually are."""
    logger = logging.getLogger("bridges.access")

    def no_health_checks(record: logging.LogRecord) -> bool:
        return "/health" not in record.getMessage()

    logger.addFilter(no_health_checks)
    try:
        log("common", target=b"/health")
        log("common", target=b"/x")
    finally:
        logger.removeFilter(no_health_checks)

    assert len(kept.lines()) == 1
