"""Who hears whom: where a call takes its seat, and what its caller hears there.

A call without a room hears itself. A publisher's voice goes to the listeners of a room, which may be none; in a
room of two each hears the other. A room is there while somebody has a seat in it.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from aiortc import MediaStreamTrack

from .broadcast import Broadcast
from .media.opus import OpusOptions
from .offer import Direction

LONGEST_NAME: Final = 64  # characters


class RoomTaken(Exception):
    """The seat has somebody in it."""


class NobodyPublishes(Exception):
    """There is nothing to listen to in a room."""


class Seat(Protocol):
    """A call's place among others."""

    @property
    def role(self) -> str:
        """For the call's report."""

    @property
    def room(self) -> str | None: ...

    @property
    def direction(self) -> Direction:
        """Of the audio, as the caller sees it."""

    @property
    def encoding(self) -> OpusOptions | None:
        """Of what others hear, or of what this caller hears of others; None: as it likes best."""

    def take(self, voice: MediaStreamTrack | None) -> MediaStreamTrack | None:
        """Sit down, with the caller's enhanced voice if it sends any; returns what the caller hears, if anything."""

    async def leave(self) -> None:
        """Give the seat back; once more does nothing."""


class Alone:
    """The caller hears itself."""

    role = "echo"
    room = None
    direction: Direction = "sendrecv"
    encoding = None

    def take(self, voice: MediaStreamTrack | None) -> MediaStreamTrack | None:
        return voice

    async def leave(self) -> None:
        pass


class Rooms:
    """The rooms of one process, by name: those that are published to, and those of two."""

    def __init__(self, encoding: OpusOptions) -> None:
        # told when somebody begins to publish in it
        self.on_publish: Callable[[Room], object] = lambda room: None
        self._encoding = replace(encoding, stereo=False)
        self._rooms: dict[str, Room] = {}
        self._pairs: dict[str, Pair] = {}

    def __len__(self) -> int:
        return len(self._rooms) + len(self._pairs)

    def publish(self, name: str) -> Seat:
        """The publisher's seat; raises :class:`RoomTaken`."""
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, self._encoding, self._empty)
        if room.published:
            raise RoomTaken(f"room {name!r} has a publisher; allowed is one")
        room.left.clear()
        return _Publisher(room, self.on_publish)

    def listen(self, name: str) -> Seat:
        """A listener's seat; raises :class:`NobodyPublishes`."""
        room = self._rooms.get(name)
        if room is None or not room.published:
            raise NobodyPublishes(f"nobody publishes in room {name!r}")
        room.seats += 1
        return _Listener(room)

    def join(self, name: str) -> Seat:
        """One of the two seats in a room; raises :class:`RoomTaken`."""
        pair = self._pairs.get(name)
        if pair is None:
            pair = self._pairs[name] = Pair(name, self._encoding, self._apart)
        if not pair.free:
            raise RoomTaken(f"room {name!r} has two callers; allowed are two")
        return _Partner(pair, pair.free.pop())

    def _empty(self, room: "Room") -> None:
        if not room.published and not room.seats:
            del self._rooms[room.name]

    def _apart(self, pair: "Pair") -> None:
        if len(pair.free) == 2:
            del self._pairs[pair.name]


class Room:
    """A voice that is published and its listeners."""

    def __init__(self, name: str, encoding: OpusOptions, on_change: Callable[["Room"], object]) -> None:
        self.name = name
        self.voice = Broadcast(encoding)
        self.left = asyncio.Event()  # set while it has no publisher
        self.left.set()
        self.seats = 0  # of listeners
        self.on_change = on_change

    @property
    def published(self) -> bool:
        return not self.left.is_set()


class Pair:
    """Two voices; each caller hears that of the other."""

    def __init__(self, name: str, encoding: OpusOptions, on_change: Callable[["Pair"], object]) -> None:
        self.name = name
        self.voices = (Broadcast(encoding), Broadcast(encoding))
        self.free = [1, 0]
        self.on_change = on_change


class _Publisher:
    role = "publisher"
    direction: Direction = "sendonly"

    def __init__(self, room: Room, on_publish: Callable[[Room], object]) -> None:
        self.room, self.encoding = room.name, room.voice.encoding
        self._room: Room | None = room
        self._on_publish = on_publish

    def take(self, voice: MediaStreamTrack | None) -> None:
        assert self._room is not None
        assert voice is not None
        self._room.voice.publish(voice)
        self._on_publish(self._room)

    async def leave(self) -> None:
        if self._room is not None:
            room, self._room = self._room, None
            await room.voice.unpublish()
            room.left.set()
            room.on_change(room)


class _Listener:
    role = "listener"
    direction: Direction = "recvonly"

    def __init__(self, room: Room) -> None:
        self.room, self.encoding = room.name, room.voice.encoding
        self._room: Room | None = room
        self._heard: MediaStreamTrack | None = None

    def take(self, voice: MediaStreamTrack | None) -> MediaStreamTrack:
        assert self._room is not None
        self._heard = self._room.voice.listen()
        return self._heard

    async def leave(self) -> None:
        if self._room is not None:
            room, self._room = self._room, None
            if self._heard is not None:
                self._heard.stop()
            room.seats -= 1
            room.on_change(room)


class _Partner:
    role = "partner"
    direction: Direction = "sendrecv"

    def __init__(self, pair: Pair, place: int) -> None:
        self.room, self.encoding = pair.name, pair.voices[place].encoding
        self._pair: Pair | None = pair
        self._place = place
        self._heard: MediaStreamTrack | None = None

    def take(self, voice: MediaStreamTrack | None) -> MediaStreamTrack:
        assert self._pair is not None
        assert voice is not None
        self._pair.voices[self._place].publish(voice)
        self._heard = self._pair.voices[1 - self._place].listen()
        return self._heard

    async def leave(self) -> None:
        if self._pair is not None:
            pair, self._pair = self._pair, None
            if self._heard is not None:
                self._heard.stop()
            await pair.voices[self._place].unpublish()
            pair.free.append(self._place)
            pair.on_change(pair)


def checked_name(name: str) -> str:
    """``name`` if a room may be called so, else ValueError."""
    if not re.fullmatch(rf"[A-Za-z0-9_-]{{1,{LONGEST_NAME}}}", name):
        raise ValueError(
            f"a room's name is 1 to {LONGEST_NAME} of the characters A-Z a-z 0-9 _ -, not {name[:100]!r}"
        )
    return name
