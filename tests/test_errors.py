"""The errors: who is to blame can be told from the class, and the text says what and by which clause."""

from __future__ import annotations

import errno
import pickle

import pytest

from bridges import errors

TREE = {
    "BridgesError": Exception,
    "ProtocolError": errors.BridgesError,
    "ApplicationProtocolError": errors.ProtocolError,
    "PeerProtocolError": errors.ProtocolError,
    "ServerProtocolError": errors.ProtocolError,
    "ApplicationError": errors.BridgesError,
    "ClientDisconnected": errors.BridgesError,
    "ConfigError": errors.BridgesError,
    "CrossingError": errors.BridgesError,
    "LifespanFailed": errors.BridgesError,
    "PoolClosed": errors.CrossingError,
    "PoolSaturated": errors.CrossingError,
    "WebSocketError": errors.BridgesError,
}


@pytest.mark.parametrize(("name", "parent"), TREE.items())
def test_each_error_has_its_place_in_the_tree(name: str, parent: type[Exception]) -> None:
    """A handler for a class catches what the module's drawing shows below it."""
    assert issubclass(getattr(errors, name), parent)


def test_tree_is_complete() -> None:
    """Every error that the module defines is in the table above."""
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(TREE)


@pytest.mark.parametrize(
    "kind",
    [errors.ApplicationProtocolError, errors.PeerProtocolError, errors.ServerProtocolError],
)
def test_clause_is_shown_after_the_sentence(kind: type[errors.ProtocolError]) -> None:
    """A broken rule is named in brackets, and is an attribute for who wants to look it up."""
    error = kind("two heads came", "PEP 3333")
    assert str(error) == "two heads came [PEP 3333]"
    assert error.clause == "PEP 3333"


def test_no_brackets_without_a_clause() -> None:
    """An error that no clause stands behind shows its sentence alone."""
    error = errors.ProtocolError("two heads came")
    assert (str(error), error.clause) == ("two heads came", "")


def test_status_hint_is_400_unless_told() -> None:
    """What the client did wrong is answered with 400 or with what the raiser knows better."""
    assert errors.PeerProtocolError("bad").status_hint == 400
    assert errors.PeerProtocolError("big", status_hint=413).status_hint == 413


@pytest.mark.spec("FR 3")
def test_client_disconnected_is_an_os_error() -> None:
    """Applications and libraries that handle a lost connection handle ours: it is an OSError."""
    with pytest.raises(OSError, match="gone"):
        raise errors.ClientDisconnected("the client is gone")


@pytest.mark.parametrize(
    "error",
    [
        errors.ApplicationProtocolError("sentence", "clause"),
        errors.ServerProtocolError("sentence"),
        errors.ClientDisconnected("sentence"),
        errors.PoolSaturated("sentence"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes(error: errors.BridgesError) -> None:
    """An error that is pickled, as worker pools and task queues do, keeps class and sentence."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert vars(copy) == vars(error)
    assert str(copy) == str(error)


def test_pickled_peer_error_keeps_its_hint() -> None:
    """The status hint is part of the error and survives pickling with it."""
    copy = pickle.loads(pickle.dumps(errors.PeerProtocolError("big", "RFC 9110", status_hint=413)))
    assert (str(copy), copy.status_hint) == ("big [RFC 9110]", 413)


def test_a_crossing_that_cannot_take_place_is_a_runtime_error() -> None:
    """Callers that know asyncio's and concurrent.futures' errors catch ours."""
    assert issubclass(errors.CrossingError, RuntimeError)


@pytest.mark.spec("FR 65")
def test_client_disconnected_is_a_broken_pipe() -> None:
    """Servers tell a client that left from a failure by the errno."""
    assert errors.ClientDisconnected("gone").errno == errno.EPIPE
