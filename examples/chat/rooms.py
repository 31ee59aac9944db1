"""Who is in which room, and the words that go over the wire; nothing here knows of sockets, threads or loops.

Every message is one JSON object in one text message. A window sends ``{"text": ...}``; it is sent `welcome` once,
`presence` whenever somebody comes or goes, and `message` for what somebody said.
"""

import json
import os
import time
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

MOST_NAME = 24
MOST_TEXT = 500
# Messages that wait for a window which does not read; with one more it is sent away.
MOST_WAITING = 100
# RFC 6455 and IANA's list: the server restarts, the client may come again.
SERVICE_RESTART = 1012

Member = TypeVar("Member", bound=Hashable)


class Rooms(Generic[Member]):
    """Rooms of one process, each with its members and their names; a room is there while somebody is in it.

    Not safe between threads: the Flask application has a lock around it, the event loop needs none.
    """

    def __init__(self) -> None:
        self._rooms: dict[str, dict[Member, str]] = {}

    def enter(self, room: str, name: str, member: Member) -> str:
        """Let a member in; give its name, with a number when another one in the room has that name."""
        there = self._rooms.setdefault(room, {})
        taken, given, number = set(there.values()), name, 2
        while given in taken:
            given, number = f"{name} {number}", number + 1
        there[member] = given
        return given

    def leave(self, room: str, member: Member) -> None:
        there = self._rooms[room]
        del there[member]
        if not there:
            del self._rooms[room]

    def members(self, room: str) -> list[Member]:
        return list(self._rooms.get(room, ()))

    def names(self, room: str) -> list[str]:
        return sorted(self._rooms.get(room, {}).values(), key=str.casefold)

    def everybody(self) -> list[Member]:
        return [member for there in self._rooms.values() for member in there]


def place(query: Mapping[str, str]) -> tuple[str, str]:
    """Give the room and the name that a window asks for."""
    room, name = (" ".join(query.get(key, "").split())[:MOST_NAME] for key in ("room", "name"))
    return room or "lobby", name or "Somebody"


def said(data: str | bytes) -> str:
    """Give the text of what a window sent; the empty string when it is none of ours."""
    try:
        text = json.loads(data)["text"]
    except (ValueError, TypeError, LookupError):
        return ""
    return text.strip()[:MOST_TEXT] if isinstance(text, str) else ""


def welcome(name: str, backend: str, thread: str) -> str:
    """Tell a window its name, and what it speaks with: another process is a restarted server."""
    return json.dumps(
        {
            "type": "welcome",
            "name": name,
            "backend": backend,
            "thread": thread,
            "process": os.getpid(),
        }
    )


def presence(names: list[str], who: str, what: str) -> str:
    return json.dumps({"type": "presence", "names": names, "who": who, "what": what})


def message(name: str, text: str) -> str:
    return json.dumps({"type": "message", "name": name, "text": text, "time": time.time()})
