"""The ways to send and to read: none of them loses a byte of a plain file."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from feeding import READERS, SENDERS


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("send", SENDERS.values(), ids=SENDERS)
def test_pieces_and_readings_make_the_whole(send: Any, read: Any, rng: random.Random) -> None:
    """What a sender cuts joins to the body, and each reader reads all of it."""
    body = b"".join(rng.randbytes(rng.randrange(90)) + b"\n" for _ in range(20))
    assert read(io.BytesIO(b"".join(send(body, rng))), rng) == body
