"""The options of the server: their types, ranges and contradictions, and as text from variables."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from typing import Any

import pytest
from server_driver import CLOCKED, driving, echo_asgi, echo_wsgi, get

from bridges.errors import ConfigError
from bridges.server.config import (
    Config,
    Option,
    options,
    options_from_environment,
)
from bridges.server.run import Server, make_config

OPTIONS = {option.name: option for option in options()}
NAMES = sorted(OPTIONS)


@pytest.fixture
def anyio_backend() -> Any:
    """Run on a loop whose clock the test turns."""
    return CLOCKED


def range_of(name: str) -> tuple[float | None, float | None]:
    """Give the bounds of an option."""
    metadata = Config.__dataclass_fields__[name].metadata
    return metadata["least"], metadata["most"]


def needed_beside(name: str, value: Any) -> dict[str, Any]:
    """Give the options without which this one would contradict the others."""
    if value is None or value == "none":
        return {}
    beside: dict[str, Any] = {"keyfile": {"certfile": "c.pem"}}
    beside["client_ca"] = {"certfile": "c.pem", "client_certificate": "required"}
    beside["client_certificate"] = {"certfile": "c.pem", "client_ca": "ca.pem"}
    found: dict[str, Any] = beside.get(name, {})
    return found


def good_value(option: Option) -> Any:
    """Give a value other than the default that an option may have."""
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    if option.kind is bool:
        return not option.default
    if option.kind is str:
        return "/app"
    return option.kind(300 if option.default != 300 else 301)


# Defaults and values.


def test_the_defaults_agree_with_each_other() -> None:
    """A server without options runs, on the loopback only."""
    config = Config()
    assert config.host == "127.0.0.1"
    assert config.max_body_bytes is None
    assert dataclasses.asdict(config) == {
        option.name: option.default for option in OPTIONS.values()
    }


def test_nothing_that_a_client_controls_is_without_a_limit_by_default() -> None:
    """But for the size of bodies and the number of connections, which applications and systems know."""
    config = Config()
    for name in ("head", "body", "keep_alive", "write", "disconnect_grace", "graceful"):
        assert 0 < getattr(config, f"{name}_seconds") < math.inf
    for name in ("max_head_bytes", "max_target_bytes", "max_fields", "websocket_max_bytes"):
        assert 0 < getattr(config, name) < 2**31


@pytest.mark.parametrize("name", NAMES)
def test_every_option_takes_a_value(name: str) -> None:
    """It is there afterwards, and cannot be changed."""
    value = good_value(OPTIONS[name])
    config = Config(**{name: value}, **needed_beside(name, value))
    assert getattr(config, name) == value
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [[], object(), b"bytes", 1j, "no such thing \n"], ids=type)
def test_every_option_refuses_what_it_is_not(name: str, value: Any) -> None:
    """By name, in one line."""
    option = OPTIONS[name]
    if option.kind is str and not option.choices and isinstance(value, str):
        return
    with pytest.raises(ConfigError, match=f"^{name} must be ") as caught:
        Config(**{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", [name for name in NAMES if OPTIONS[name].kind is not bool])
def test_true_is_no_number_and_no_text(name: str) -> None:
    """Though bool is a kind of int."""
    with pytest.raises(ConfigError, match=f"^{name} must be "):
        Config(**{name: True})


@pytest.mark.parametrize("name", NAMES)
def test_none_is_for_options_that_may_be_off(name: str) -> None:
    """For the others it is a mistake."""
    if OPTIONS[name].optional:
        assert getattr(Config(**{name: None}), name) is None
    else:
        with pytest.raises(ConfigError, match=f"^{name} must be "):
            Config(**{name: None})


@pytest.mark.parametrize("name", [name for name in NAMES if range_of(name)[0] is not None])
def test_the_least_value(name: str) -> None:
    """It is a value; anything below is a mistake, and so is what is no number at all."""
    least, most = range_of(name)
    assert least is not None
    kind = OPTIONS[name].kind
    assert getattr(Config(**{name: kind(least)}), name) == least
    with pytest.raises(ConfigError, match=f"^{name} must be at least"):
        Config(**{name: kind(least) - 1})
    if kind is float:
        with pytest.raises(ConfigError, match=f"^{name} must be at least"):
            Config(**{name: math.nan})
        assert getattr(Config(**{name: math.inf}), name) == math.inf
    if most is not None:
        assert getattr(Config(**{name: kind(most)}), name) == most
        with pytest.raises(ConfigError, match=f"^{name} must be at most"):
            Config(**{name: kind(most) + 1})


@pytest.mark.parametrize("name", [name for name in NAMES if OPTIONS[name].kind in (int, float)])
def test_every_number_has_a_least_value(name: str) -> None:
    """A negative size or time means nothing."""
    assert range_of(name)[0] is not None


def test_whole_numbers_are_times_too() -> None:
    """10 seconds are 10.0 seconds; but 10.0 bytes are none."""
    assert Config(head_seconds=10).head_seconds == 10
    with pytest.raises(ConfigError, match=r"^max_head_bytes must be a whole number"):
        Config(max_head_bytes=1000.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"unix_socket": "/s", "fd": 3}, "unix_socket and fd"),
        ({"root_path": "app"}, "root_path must begin with a slash"),
        ({"root_path": "/app/"}, "root_path must begin with a slash"),
        ({"root_path": "/"}, "root_path must begin with a slash"),
        ({"keyfile": "k.pem"}, "certfile"),
        ({"client_ca": "ca.pem", "client_certificate": "required"}, "certfile"),
        ({"certfile": "c.pem", "client_ca": "ca.pem"}, "client_certificate"),
        ({"certfile": "c.pem", "client_certificate": "optional"}, "client_ca"),
    ],
)
def test_contradictions(given: dict[str, Any], said: str) -> None:
    """Two options that do not go together are named."""
    with pytest.raises(ConfigError, match=said):
        Config(**given)


def test_an_option_that_does_not_exist() -> None:
    """The error names those that do."""
    with pytest.raises(ConfigError, match=r"no option 'prot'.* port, "):
        make_config({"prot": 8000})
    with pytest.raises(ConfigError, match="no option 'prot'"):
        Server(echo_asgi, prot=8000)


def test_a_password_is_not_shown() -> None:
    """Where a config is printed, in a traceback for instance."""
    assert "hunter2" not in repr(Config(certfile="c.pem", keyfile_password="hunter2"))


# Extreme values that are allowed have to work.


@pytest.mark.parametrize("name", [name for name in NAMES if OPTIONS[name].unit == "seconds"])
@pytest.mark.parametrize("value", [0.0, 0.1, math.inf])
@pytest.mark.parametrize("app", [echo_asgi, echo_wsgi])
async def test_the_extremes_of_every_time(app: Any, name: str, value: float) -> None:
    """A request is served, its client leaves, another one is under way when the server stops."""
    least = range_of(name)[0]
    if least is not None and value < least:
        return
    async with driving(app, **{name: value}) as driver:
        client, leaving, busy = (driver.connect() for _ in range(3))
        await client.send(get("/x"))
        assert client.response().body == b"GET /x "
        for each in (leaving, busy):
            await each.send(get("/", "Content-Length: 1", method="POST"))
        await leaving.leave()
        drain = asyncio.ensure_future(driver.service.drain(1))
        await driver.advance(20)
        if not drain.done():
            drain.cancel()
            await asyncio.wait([drain])
        driver.complaints.take()


@pytest.mark.parametrize("name", [name for name in NAMES if OPTIONS[name].kind is int])
@pytest.mark.parametrize("app", [echo_asgi, echo_wsgi])
async def test_the_least_of_every_number(app: Any, name: str) -> None:
    """A connection is answered, whatever that answer is."""
    least = range_of(name)[0]
    async with driving(app, **{name: int(least or 0)}) as driver:
        client = driver.connect()
        await client.send(get("/x"))
        assert client.response().status in (200, 414, 431, 503)
        driver.complaints.take()


# Options as text.


@pytest.mark.parametrize("name", NAMES)
def test_an_option_describes_itself(name: str) -> None:
    """In a group, with a sentence, a flag and a variable of its name."""
    option = OPTIONS[name]
    assert option.group
    assert option.text
    assert not option.text.endswith(".")
    assert option.flag == "--" + name.replace("_", "-")
    assert option.variable == "BRIDGES_" + name.upper()
    if name.endswith("_seconds"):
        assert option.unit == "seconds"
    if name.endswith("_bytes"):
        assert option.unit == "bytes"


@pytest.mark.parametrize("name", NAMES)
def test_a_value_is_read_from_a_variable(name: str) -> None:
    """The same value as in Python."""
    option = OPTIONS[name]
    value = good_value(option)
    text = format(value, "o") if option.unit == "octal" else str(value)
    assert options_from_environment({option.variable: text}) == {name: value}


@pytest.mark.parametrize("text", ["1", "true", "True", "YES", "on"])
def test_words_for_true(text: str) -> None:
    """As people write it."""
    assert OPTIONS["factory"].parse(text) is True


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF"])
def test_words_for_false(text: str) -> None:
    """As people write it."""
    assert OPTIONS["websocket_deflate"].parse(text) is False


@pytest.mark.parametrize("text", ["", "none", "None"])
def test_words_for_none(text: str) -> None:
    """Where an option may be off; elsewhere they are no numbers."""
    assert OPTIONS["max_queue"].parse(text) is None
    with pytest.raises(ConfigError, match=r"^port must be a whole number"):
        OPTIONS["port"].parse(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "http"),
        ("port", "80.5"),
        ("head_seconds", "soon"),
        ("factory", "maybe"),
        ("factory", ""),
        ("unix_mode", "0888"),
    ],
)
def test_text_that_is_no_value(name: str, text: str) -> None:
    """The error says which variable it came from."""
    option = OPTIONS[name]
    with pytest.raises(ConfigError, match=f"^{name} must be .*BRIDGES_{name.upper()}"):
        options_from_environment({option.variable: text})


def test_modes_are_octal() -> None:
    """As chmod takes them."""
    assert OPTIONS["unix_mode"].parse("640") == 0o640
    assert OPTIONS["unix_mode"].parse("0o640") == 0o640


def test_other_variables_are_not_looked_at() -> None:
    """Neither those of other programs nor those that are no option."""
    assert (
        options_from_environment({"PORT": "1", "BRIDGES_NO_SUCH": "1", "bridges_port": "1"}) == {}
    )
