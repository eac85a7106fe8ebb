"""A LiveKit server as small as the real SDK lets it be: rooms, signalling, audio forwarded as it is, on 127.0.0.1.

It speaks what the SDK falls back to where ``/rtc/v1`` is not found: one connection that the client offers, for what
it publishes, and one that the server offers, for what it subscribes to.
"""

import asyncio
import base64
import contextlib
import hmac
import itertools
import json
import socket
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Self

from aiohttp import web
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtp import RtpPacket
from aiortc.sdp import SessionDescription, candidate_from_sdp
from av import Packet
from livekit.protocol import models, rtc

KEY, SECRET = "key", "a secret of the tests"
ROOM = "office"
CONFIGURATION = RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
CLOCK = Fraction(1, 48_000)
QUEUE = 50  # packets that wait for a listener who does not take them


class Forwarded(MediaStreamTrack):
    """What came of a published track, to one listener, without coding it anew."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._packets: asyncio.Queue[RtpPacket | None] = asyncio.Queue(QUEUE)
        self._first: int | None = None

    def push(self, packet: RtpPacket) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._packets.put_nowait(packet)

    async def recv(self) -> Any:
        if (came := await self._packets.get()) is None:
            raise MediaStreamError
        if self._first is None:
            self._first = came.timestamp
        packet = Packet(came.payload)
        packet.pts, packet.time_base = (came.timestamp - self._first) % 2**32, CLOCK
        return packet

    def stop(self) -> None:
        super().stop()
        if self._packets.full():
            self._packets.get_nowait()
        self._packets.put_nowait(None)


class Published:
    """A track that a participant publishes."""

    def __init__(self, cid: str, info: models.TrackInfo) -> None:
        self.cid = cid
        self.info = info
        self.mid: str | None = None  # of the section that brings it; without one others are not told
        self.listeners: dict[str, Forwarded] = {}  # by who listens

    def receive(self, receiver: RTCRtpReceiver, mid: str) -> None:
        async def forward(packet: RtpPacket, arrival_time_ms: int) -> None:
            for listener in self.listeners.values():
                listener.push(packet)

        self.mid = mid
        receiver._handle_rtp_packet = forward  # or aiortc would decode it

    def stop(self) -> None:
        for listener in self.listeners.values():
            listener.stop()


class Person:
    """Somebody who has joined, and the connections to them."""

    def __init__(
        self, room: "Room", socket: web.WebSocketResponse, claims: Mapping[str, Any], auto_subscribe: bool
    ) -> None:
        self.auto_subscribe = auto_subscribe
        self.published: dict[str, Published] = {}  # by SID
        self.asked_for: list[str] = []  # SIDs that were subscribed to, all told
        self.info = models.ParticipantInfo(
            sid=room.new("PA"),
            identity=claims["sub"],
            name=claims.get("name", ""),
            attributes=claims.get("attributes", {}),
            state=models.ParticipantInfo.ACTIVE,
        )
        self._room = room
        self._grants = claims["video"]
        self._socket = socket
        self._publisher = RTCPeerConnection(CONFIGURATION)
        self._subscriber = RTCPeerConnection(CONFIGURATION)
        self._subscriber.createDataChannel("_reliable")
        self._negotiation = asyncio.Lock()
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._offers: set[asyncio.Task[None]] = set()

    def listed(self) -> models.ParticipantInfo:
        """As others see this one."""
        info = models.ParticipantInfo()
        info.CopyFrom(self.info)
        info.tracks.extend(track.info for track in self.published.values() if track.mid is not None)
        return info

    async def say(self, **words: Any) -> None:
        with contextlib.suppress(ConnectionError):
            await self._socket.send_bytes(rtc.SignalResponse(**words).SerializeToString())

    async def listen(self) -> None:
        """Until the connection ends."""
        self._offer()
        async for message in self._socket:
            request = rtc.SignalRequest.FromString(message.data)
            if (kind := request.WhichOneof("message")) == "leave":
                break
            if (handler := getattr(self, f"_on_{kind}", None)) is not None:
                await handler(getattr(request, kind))

    async def close(self) -> None:
        for offer in self._offers:
            offer.cancel()
        await asyncio.gather(*self._offers, return_exceptions=True)
        for track in self.published.values():
            track.stop()
        for connection in (self._publisher, self._subscriber):
            await connection.close()
        await self._socket.close()

    def subscribe(self, track: Published, publisher: str) -> None:
        """To a track of the participant with that SID, unless this one already is."""
        if self.info.identity not in track.listeners:
            self.asked_for.append(track.info.sid)
            forwarded = track.listeners[self.info.identity] = Forwarded()
            sender = self._subscriber.addTransceiver(forwarded, "sendonly").sender
            sender._stream_id = f"{publisher}|{track.info.sid}"
            self._offer()

    def _offer(self) -> None:
        task = asyncio.create_task(self._negotiate())
        self._offers.add(task)
        task.add_done_callback(self._offers.discard)

    async def _negotiate(self) -> None:
        async with self._negotiation:
            await self._subscriber.setLocalDescription(await self._subscriber.createOffer())
            sdp = self._subscriber.localDescription.sdp
            await self.say(offer=rtc.SessionDescription(type="offer", sdp=sdp))
            answer = RTCSessionDescription(await self._answers.get(), "answer")
            await self._subscriber.setRemoteDescription(answer)

    async def _on_ping_req(self, ping: rtc.Ping) -> None:
        await self.say(pong_resp=rtc.Pong(last_ping_timestamp=ping.timestamp))

    async def _on_answer(self, answer: rtc.SessionDescription) -> None:
        self._answers.put_nowait(answer.sdp)

    async def _on_offer(self, offer: rtc.SessionDescription) -> None:
        await self._publisher.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
        await self._publisher.setLocalDescription(await self._publisher.createAnswer())
        sdp = self._publisher.localDescription.sdp
        await self.say(answer=rtc.SessionDescription(type="answer", sdp=sdp))
        sections = SessionDescription.parse(offer.sdp).media
        sending = {m.msid.split()[-1]: m.rtp.muxId for m in sections if m.msid and "send" in str(m.direction)}
        receivers = {t.mid: t.receiver for t in self._publisher.getTransceivers()}
        changed = False
        for sid, track in list(self.published.items()):
            if track.mid is None and track.cid in sending:
                track.receive(receivers[sending[track.cid]], sending[track.cid])
                changed = True
            elif track.mid is not None and track.cid not in sending:
                self.published.pop(sid).stop()
                changed = True
        if changed:
            await self._room.tell(self)

    async def _on_trickle(self, trickle: rtc.TrickleRequest) -> None:
        told = json.loads(trickle.candidateInit)
        if told["candidate"]:
            candidate = candidate_from_sdp(told["candidate"].removeprefix("candidate:"))
            candidate.sdpMid, candidate.sdpMLineIndex = told["sdpMid"], told["sdpMLineIndex"]
            connection = self._publisher if trickle.target == rtc.PUBLISHER else self._subscriber
            await connection.addIceCandidate(candidate)

    async def _on_add_track(self, asked: rtc.AddTrackRequest) -> None:
        sid = self._room.new("TR")
        info = models.TrackInfo(
            sid=sid, name=asked.name, type=asked.type, source=asked.source, muted=asked.muted
        )
        self.published[sid] = Published(asked.cid, info)
        await self.say(track_published=rtc.TrackPublishedResponse(cid=asked.cid, track=info))

    async def _on_mute(self, asked: rtc.MuteTrackRequest) -> None:
        self.published[asked.sid].info.muted = asked.muted
        await self._room.tell(self)

    async def _on_subscription(self, asked: rtc.UpdateSubscription) -> None:
        for publisher in self._room.people.values():
            for sid in set(asked.track_sids) & set(publisher.published):
                track = publisher.published[sid]
                if asked.subscribe:
                    self.subscribe(track, publisher.info.sid)
                elif (listener := track.listeners.pop(self.info.identity, None)) is not None:
                    listener.stop()

    async def _on_update_metadata(self, asked: rtc.UpdateParticipantMetadata) -> None:
        allowed = self._grants.get("canUpdateOwnMetadata", False)
        reason = rtc.RequestResponse.OK if allowed else rtc.RequestResponse.NOT_ALLOWED
        await self.say(request_response=rtc.RequestResponse(request_id=asked.request_id, reason=reason))
        if allowed:
            for name, value in asked.attributes.items():
                self.info.attributes[name] = value
                if not value:
                    del self.info.attributes[name]
            await self._room.tell(self)


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
        for other in others:
            self._offer(other, person)

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
            self._offer(changed, person)

    def _offer(self, publisher: Person, listener: Person) -> None:
        if listener is not publisher and listener.auto_subscribe:
            for track in publisher.published.values():
                if track.mid is not None:
                    listener.subscribe(track, publisher.info.sid)


class LiveKitServer:
    """Runs inside ``async with``; :meth:`kill` and :meth:`start` between are a crash and a restart."""

    def __init__(self) -> None:
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
        app.add_routes([web.get("/rtc", self._serve), web.get("/rtc/validate", self._validate)])
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
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if request.query.get("reconnect") == "1":  # to what is over: who restarts has forgotten all
            leave = rtc.LeaveRequest(action=rtc.LeaveRequest.RECONNECT, reason=models.STATE_MISMATCH)
            await socket.send_bytes(rtc.SignalResponse(leave=leave).SerializeToString())
            await socket.close()
            return socket
        room = self.rooms.setdefault(claims["video"]["room"], Room(claims["video"]["room"]))
        person = Person(room, socket, claims, request.query.get("auto_subscribe") == "1")
        await room.join(person)
        try:
            await person.listen()
        finally:
            await room.leave(person)
            await person.close()
        return socket


def claims_of(request: web.Request) -> Mapping[str, Any]:
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
