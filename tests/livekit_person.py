"""Somebody in a room of the small LiveKit server: their signalling, and their audio, forwarded as it is.

Either way of LiveKit's: one connection for all, whose sections the client offers (``/rtc/v1``), or one that the client
offers, for what it publishes, and one that the server offers, for what it subscribes to (``/rtc``).
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Coroutine, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtp import RtpPacket
from aiortc.sdp import SessionDescription, candidate_from_sdp
from av import Packet
from livekit.protocol import models, rtc

from server.waiting import cancelled

if TYPE_CHECKING:
    from livekit_server import Room

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
        self,
        room: "Room",
        socket: web.WebSocketResponse,
        claims: Mapping[str, Any],
        offer: rtc.SessionDescription | None,
    ) -> None:
        """``offer``: of the one connection for all, where that is the way."""
        self.is_cut = False  # off from signalling, and may come back
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
        self._first_offer = offer
        self._publisher = RTCPeerConnection(CONFIGURATION)
        self._subscriber = self._publisher if offer else RTCPeerConnection(CONFIGURATION)
        self._waiting: deque[tuple[Forwarded, str, str]] = deque()  # for a section; their streams and SIDs
        self._sections: dict[str, str] = {}  # SIDs by mid
        self._negotiation = asyncio.Lock()
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

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
        if self._first_offer is None:
            self._subscriber.createDataChannel("_reliable")
            self._do(self._negotiate())
        else:
            await self._on_offer(self._first_offer)
        await self._answer_all()

    async def cut(self) -> None:
        """End the signalling as a network does that fails for a moment."""
        self.is_cut = True
        await self._socket.close()

    async def remove(self) -> None:
        """Out of the room, as a moderator does."""
        reason = models.PARTICIPANT_REMOVED
        await self.say(leave=rtc.LeaveRequest(action=rtc.LeaveRequest.DISCONNECT, reason=reason))
        await self._socket.close()

    async def resume(self, socket: web.WebSocketResponse) -> None:
        """Go on where they were, until the connection ends."""
        self.is_cut, self._socket = False, socket
        await self.say(reconnect=rtc.ReconnectResponse())
        others = [other.listed() for other in self._room.people.values() if other is not self]
        await self.say(update=rtc.ParticipantUpdate(participants=others))
        await self._answer_all()

    async def _answer_all(self) -> None:
        async for message in self._socket:
            request = rtc.SignalRequest.FromString(message.data)
            if (kind := request.WhichOneof("message")) == "leave":
                break
            if (handler := getattr(self, f"_on_{kind}", None)) is not None:
                await handler(getattr(request, kind))

    async def close(self) -> None:
        await cancelled(*self._tasks)
        for track in self.published.values():
            track.stop()
        for connection in (self._publisher, self._subscriber):
            await connection.close()
        await self._socket.close()

    def subscribe(self, track: Published, publisher: str) -> None:
        """To a track of the participant with that SID, unless this one already is."""
        if self.info.identity in track.listeners:
            return
        sid = track.info.sid
        self.asked_for.append(sid)
        forwarded, stream = Forwarded(), f"{publisher}|{sid}"
        track.listeners[self.info.identity] = forwarded
        if self._first_offer is None:
            self._subscriber.addTransceiver(forwarded, "sendonly").sender._stream_id = stream
            self._do(self._negotiate())
        else:
            self._waiting.append((forwarded, stream, sid))
            self._do(self.say(media_sections_requirement=rtc.MediaSectionsRequirement(num_audios=1)))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        for section in self._publisher.getTransceivers():
            is_free = section._offerDirection == "sendonly" and section.sender.track is None
            if self._waiting and section.kind == "audio" and is_free:
                forwarded, section.sender._stream_id, sid = self._waiting.popleft()
                section.sender.replaceTrack(forwarded)
                section.direction = "sendonly"
                self._sections[str(section.mid)] = sid
        await self._publisher.setLocalDescription(await self._publisher.createAnswer())
        sdp = self._publisher.localDescription.sdp
        answer = rtc.SessionDescription(type="answer", sdp=sdp, mid_to_track_id=self._sections)
        await self.say(answer=answer)
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
            connection = self._publisher if trickle.target == rtc.SignalTarget.PUBLISHER else self._subscriber
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
