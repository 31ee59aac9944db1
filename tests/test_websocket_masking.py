"""Masks are undone alike with and without the C code of the package websockets, in one piece or several."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websocket_tools import TEXT, frame
from wsproto.frame_protocol import XorMaskerSimple

from bridges.websocket import masking
from bridges.websocket.framing import Framing

Unmask = Callable[[bytes, bytes], bytes]


def without_websockets() -> ModuleType:
    """Import the module anew, as on a machine that lacks the package."""
    original = builtins.__import__

    def refusing(name: str, *rest: Any) -> Any:
        if name.startswith("websockets"):
            raise ImportError(name)
        return original(name, *rest)

    spec = importlib.util.find_spec(masking.__name__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "__import__", refusing)
        spec.loader.exec_module(module)
    return module


PLAIN = without_websockets()


@pytest.mark.spec("RFC 6455", "section 5.3")
@pytest.mark.parametrize("module", [masking, PLAIN], ids=["websockets", "wsproto"])
@given(key=st.binary(min_size=4, max_size=4), data=st.binary(max_size=5000))
def test_a_mask_is_undone(module: ModuleType, key: bytes, data: bytes) -> None:
    """Byte i of the payload is masked with byte i modulo 4 of the key."""
    expected = bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    assert module.apply_mask(data, key) == expected
    assert module.apply_mask(bytearray(data), bytearray(key)) == expected


@pytest.mark.spec("RFC 6455", "section 5.3")
@given(key=st.binary(min_size=4, max_size=4), pieces=st.lists(st.binary(max_size=70)))
def test_pieces_of_a_frame(key: bytes, pieces: list[bytes]) -> None:
    """The mask goes on where the piece before left it."""
    masker = masking.Masker(key)
    together = b"".join(masker.process(bytearray(piece)) for piece in pieces)
    assert together == masking.apply_mask(b"".join(pieces), key)


@pytest.mark.spec("RFC 6455", "section 5.3")
@pytest.mark.parametrize("module", [masking, PLAIN], ids=["websockets", "wsproto"])
@pytest.mark.parametrize("size", [100, 1000, 256_000])
def test_a_frame_in_pieces(module: ModuleType, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that takes several reads of the connection, with each of the three forms of its length."""
    monkeypatch.setattr("bridges.websocket.framing.Decoder", module.Decoder)
    by_wsproto: list[int] = []
    process = XorMaskerSimple.process
    monkeypatch.setattr(
        XorMaskerSimple,
        "process",
        lambda masker, data: (by_wsproto.append(len(data)), process(masker, data))[1],
    )
    data = bytes(range(125)) * (size // 125) + bytes(size % 125)
    framing = Framing(max_bytes=len(data))
    sent = frame(TEXT, data)
    events = []
    for begin in range(0, len(sent), 53 if size < 2000 else 4097):
        framing.receive_data(sent[begin : begin + (53 if size < 2000 else 4097)])
        events += iter(framing.next_event, None)
    assert events == [data.decode()]
    assert bool(by_wsproto) == (module is PLAIN)


@pytest.mark.spec("performance.md")
def test_the_package_is_used_where_it_is() -> None:
    """The tests' environment has it, and the other way of import has not."""
    assert masking.HAS_C
    assert not PLAIN.HAS_C
    assert masking.__name__ in sys.modules
