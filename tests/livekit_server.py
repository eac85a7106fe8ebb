"""A LiveKit server as small as the real SDK lets it be: rooms, signalling, and audio, on this machine only."""

import asyncio
import base64
import gzip
import hmac
import itertools
import json
import socket
import time
from typing import Any, Self

from aiohttp import web
from livekit.protocol import models, rtc
from livekit_person import Person

KEY, SECRET = "key", "a secret of the tests"
ROOM = "office"


class Room:
    def __init__(self, name: str) -> None:
        self.name = name
        self.people: dict[str, Person] = {}  # by identity
        self._numbers = itertools.count(1)

    def new(self, kind: str) -> str:
        """The SID of a thing that is new."""
        return f"{kind}_{self.name}{next(self._numbers)}"

    async def join(self, person: Person) -> None:
        self.people[person.info.identity] = person
        others = [other for other in self.people.values() if other is not person]
        await person.say(
            join=rtc.JoinResponse(
                room=models.Room(sid=f"RM_{self.name}", name=self.name),
                participant=person.info,
                other_participants=[other.listed() for other in others],
                subscriber_primary=True,
                ping_interval=5,
                ping_timeout=15,
            )
        )
        await self.tell(person)

    async def leave(self, person: Person) -> None:
        if self.people.get(person.info.identity) is person:
            del self.people[person.info.identity]
            for other in self.people.values():
                for track in other.published.values():
                    if listener := track.listeners.pop(person.info.identity, None):
                        listener.stop()
            person.info.state = models.ParticipantInfo.DISCONNECTED
            await self.tell(person)

    async def tell(self, changed: Person) -> None:
        """All of what has become of somebody."""
        update = rtc.ParticipantUpdate(participants=[changed.listed()])
        for person in list(self.people.values()):
            await person.say(update=update)


class LiveKitServer:
    """Runs inside ``async with``; :meth:`kill` and :meth:`start` between are a crash and a restart.

    With ``connections`` 2 it is an old one, which does not know the way with one connection for all. With
    ``attributes`` False nobody may change their own.
    """

    def __init__(self, connections: int = 1, attributes: bool = True) -> None:
        self._connections = connections
        self._attributes = attributes
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self._port = int(taken.getsockname()[1])
        self.url = f"ws://127.0.0.1:{self._port}"
        self.rooms: dict[str, Room] = {}
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.kill()

    async def start(self) -> None:
        app = web.Application()
        path = "/rtc/v1" if self._connections == 1 else "/rtc"
        app.add_routes([web.get(path, self._serve), web.get(f"{path}/validate", self._validate)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True).start()

    async def kill(self) -> None:
        """End it without a word to anybody."""
        rooms, self.rooms = self.rooms, {}
        for room in rooms.values():
            people, room.people = room.people, {}
            await asyncio.gather(*(person.close() for person in people.values()))
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def person(self, identity: str) -> Person:
        """Who is in the room that all are in."""
        return self.rooms[ROOM].people[identity]

    async def _validate(self, request: web.Request) -> web.Response:
        claims_of(request)
        return web.Response(text="success")

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        claims = claims_of(request)
        claims["video"]["canUpdateOwnMetadata"] &= self._attributes
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        asked = join_request(request)
        room = self.rooms.setdefault(claims["video"]["room"], Room(claims["video"]["room"]))
        if not asked.reconnect:
            person = Person(room, socket, claims, asked.publisher_offer if self._connections == 1 else None)
            await room.join(person)
        elif (known := room.people.get(claims["sub"])) is not None and known.is_cut:
            person = known
        else:  # who restarts has forgotten all
            leave = rtc.LeaveRequest(action=rtc.LeaveRequest.RECONNECT, reason=models.STATE_MISMATCH)
            await socket.send_bytes(rtc.SignalResponse(leave=leave).SerializeToString())
            await socket.close()
            return socket
        try:
            await (person.resume(socket) if asked.reconnect else person.listen())
        finally:
            if not person.is_cut:
                await room.leave(person)
                await person.close()
        return socket


def join_request(request: web.Request) -> rtc.JoinRequest:
    """How somebody comes, or comes back."""
    if "join_request" not in request.query:
        return rtc.JoinRequest(reconnect=request.query.get("reconnect") == "1")
    wrapped = rtc.WrappedJoinRequest.FromString(base64.urlsafe_b64decode(request.query["join_request"]))
    packed = wrapped.compression == rtc.WrappedJoinRequest.GZIP
    return rtc.JoinRequest.FromString(
        gzip.decompress(wrapped.join_request) if packed else wrapped.join_request
    )


def claims_of(request: web.Request) -> dict[str, Any]:
    """What the caller's token says; 401 where it is none of the server's."""
    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    signed, _, signature = token.rpartition(".")
    right = base64.urlsafe_b64encode(hmac.digest(SECRET.encode(), signed.encode(), "sha256")).rstrip(b"=")
    if not hmac.compare_digest(right, signature.encode()):
        raise web.HTTPUnauthorized(text="invalid token")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
    if header != {"alg": "HS256", "typ": "JWT"} or claims["iss"] != KEY or not claims["video"]["roomJoin"]:
        raise web.HTTPUnauthorized(text="no permissions to access the room")
    if not claims["nbf"] <= time.time() < claims["exp"]:
        raise web.HTTPUnauthorized(text="the token is not valid now")
    return dict(claims)
