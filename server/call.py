"""A call's life in one place, from the offer until all it held is given back."""

import asyncio
import logging
import secrets
import time
from typing import Any, Final

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceCandidate,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)

from percepnet.framing import SAMPLE_RATE

from . import iceservers, sections
from .advertise import advertised
from .config import Config
from .control import ControlChannel
from .controls import Changes
from .engine import Engine
from .frames import Layout
from .media import association, closing, guard, opus, rebinding, receiver, sender
from .media.ports import Sockets, is_here
from .offer import MOST_ALIKE, Offer, OfferError
from .rooms import Alone, Seat
from .totals import Totals
from .track import EnhancedTrack
from .waiting import happens

# s that the event loop was late by, from which on it is not its callers that were silent
STANDSTILL: Final = 1.0
FIGURES_INTERVAL: Final = 0.2  # s between live figures on the data channel
MOST_CANDIDATES: Final = MOST_ALIKE  # that a caller may name after the offer; each is checked, and kept
MOST_CHANNELS: Final = 16  # data channels that a caller may open; one is of use
FULL_TIME: Final = 5  # s after which a caller who found the server full may try again

logger = logging.getLogger(__name__)


class TooManyCalls(Exception):
    """No room for a call, or no time; in ``retry_after`` s there may be."""

    def __init__(self, text: str, retry_after: int = FULL_TIME) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Call:
    """One caller's connection. :meth:`open` makes it, :meth:`close` ends it; one task owns all between."""

    def __init__(self, config: Config, engine: Engine, worker: int = 0, seat: Seat | None = None) -> None:
        self.id = f"{worker}.{secrets.token_urlsafe(16)}"  # tells the front where the call is
        self.seat = seat or Alone()
        self.etag = f'"{secrets.token_hex(8)}"'  # of its ICE session, which never restarts
        self.remote_ufrag = ""
        self.answer: RTCSessionDescription | None = None
        self._config = config
        self._engine = engine
        self._began = time.monotonic()
        self._track: EnhancedTrack | None = None
        self._reception: receiver.Reception | None = None
        self._rebinding: rebinding.Rebinding | None = None
        self._encoding: opus.OpusOptions | None = None  # None: aiortc's own
        self._guard: guard.Guard | None = None
        self._channel: ControlChannel | None = None
        self._refused: set[str] = set()  # mids of the sections that are refused
        self._candidates = 0  # named after the offer
        self._channels = 0  # that the caller has opened
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        # Those are for callers; one who knows its address needs no relay, and no call shall wait for one.
        known = () if config.advertise_address is not None else iceservers.of(config)
        servers = [RTCIceServer(s.url, s.username, s.credential) for s in known]
        # An empty list asks no server; without one, aiortc asks a public STUN server.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._connection.on("connectionstatechange", self._on_state)
        self._connection.on("datachannel", self._on_channel)

    def __str__(self) -> str:
        return self.id[:8]  # for logs: who knows the whole id may turn and end the call

    async def open(self, offer: Offer) -> None:
        """Answer the offer; on any failure the call has given back all it took."""
        self.remote_ufrag = offer.ufrag
        self._refused = {other.mid for other in offer.others}
        try:
            self._connection.on("track", lambda source: self._on_track(source, offer))
            await self._connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
            if offer.direction == "recvonly":
                self._encoded(offer)
                self._hear(self.seat.take(None))
            elif self._track is None:
                raise OfferError("sdp: the audio section offers no track")
            await self._gather()
            self.answer = self._answered(offer)
        except BaseException:
            await self._free()
            raise

    def _answered(self, offer: Offer) -> RTCSessionDescription:
        """The answer, with what aiortc has no part in."""
        sdp = sections.bundled_as(self._connection.localDescription.sdp, offer.sdp)
        if self._encoding is not None:
            sdp = opus.described(sdp, self._config.opus.fmtp(sent=self._encoding))
        if self._config.advertise_address is not None:
            sdp = advertised(sdp, self._config.advertise_address)
        return RTCSessionDescription(sections.refused(sdp, offer.others), "answer")

    async def _gather(self) -> None:
        """Open the sockets of the call, and put its answer together."""
        sockets = Sockets(self._config.udp_ports, self._own_address())
        answer = await self._connection.createAnswer()
        # Gathering ends by itself after 5 s; a timeout here would cancel it, and it would lose its sockets.
        with sockets.binding():
            await self._connection.setLocalDescription(answer)
        (transceiver,) = self._connection.getTransceivers()
        dtls = transceiver.receiver.transport
        if sockets.exhausted:
            raise TooManyCalls(f"no UDP port of {sockets} is free")
        if not dtls.transport.iceGatherer.getLocalCandidates():
            raise TooManyCalls("no UDP socket can be opened")
        self._rebinding = rebinding.install(dtls.transport)
        self._guard = guard.install(dtls)
        data = self._connection.sctp
        if data is not None:
            association.install(data)
            if data.transport is not dtls:  # not bundled
                guard.install(data.transport)

    def _own_address(self) -> str | None:
        """The one that callers are told, if it is this machine's: at others they would find nobody."""
        address = self._config.advertise_address
        return address if address is not None and is_here(address) else None

    async def live(self) -> None:
        """Wait for the end of the call, push its figures meanwhile, and free what it held."""
        try:
            if not await happens(self._connected, self._config.connect_timeout):
                logger.info("did not connect")
                return
            end = self._began + self._config.max_call_time
            turn = time.monotonic()
            while not await happens(self._ended, min(FIGURES_INTERVAL, end - time.monotonic())):
                now = time.monotonic()
                if (stood := now - turn - FIGURES_INTERVAL) > STANDSTILL and self._guard is not None:
                    self._guard.excuse(stood)  # what came meanwhile has not been read
                turn = now
                if (reason := self._overdue(end)) is not None:
                    logger.info("ends: it %s", reason)
                    return
                if self._channel is not None:
                    self._channel.push(self.report())
        finally:
            await self._free()
            logger.info("ended after %.1f s", time.monotonic() - self._began)

    def end(self) -> None:
        """Ask :meth:`live` to come to its end."""
        self._ended.set()
        self._connected.set()

    def turn(self, changes: Changes) -> None:
        """Turn controls; heard from the next packet. ValueError if the caller only listens."""
        if self._track is None:
            raise ValueError("a listener has no controls; its publisher has")
        self._track.port.set(changes)

    async def add_candidate(self, candidate: RTCIceCandidate) -> None:
        """One more address of the caller (trickle ICE); ValueError for too many.

        A call that is connected needs none: a caller that moves is found by its own checks.
        """
        self._candidates += 1
        if self._candidates > MOST_CANDIDATES:
            raise ValueError(f"a call takes at most {MOST_CANDIDATES} candidates after its offer")
        if self._connection.connectionState in ("new", "connecting"):
            if candidate.sdpMid in self._refused:
                (transceiver,) = self._connection.getTransceivers()
                candidate.sdpMid = transceiver.mid  # they share a transport
            await self._connection.addIceCandidate(candidate)

    def report(self) -> dict[str, object]:
        """State, controls and figures, ready for JSON. Levels in dBFS, times in ms unless named otherwise.

        A listener has no voice of its own, and so neither controls nor figures of it.
        """
        known: dict[str, object] = {
            "id": self.id,
            "role": self.seat.role,
            "room": self.seat.room,
            "state": self._connection.connectionState,
            "age_s": round(time.monotonic() - self._began, 3),
        }
        if self._track is None:
            return known
        figures, port = self._track.port.figures, self._track.port
        reception = self._reception
        p50, p99 = self._track.delays_ms() or (None, None)
        return known | {
            "controls": port.controls.as_changes(),
            "degraded": figures.degraded,
            "enhancement": port.enhancement,
            "datagrams": {"refused": self._guard.refused, "faults": self._guard.faults}
            if self._guard
            else None,
            "packets": {
                "in": figures.packets_in,
                "out": figures.packets_out,
                "dropped": figures.dropped
                + self._track.skipped
                + (reception.frames.dropped if reception else 0),
                "shed": figures.shed_packets,
                "passed": figures.passed,
                **(reception.packets() if reception else {}),
            },
            "network": reception.network() if reception else None,
            "level": {
                "in_dbfs": round(figures.level_in_db, 1),
                "out_dbfs": round(figures.level_out_db, 1),
            },
            "engine": {
                "batch": figures.batch,
                "wait_ms": round(figures.wait_ms, 3),
                "step_ms": round(figures.step_ms, 3),
            },
            "delay": {
                "algorithm_ms": self._engine.latency_samples / 48,
                "server_p50_ms": p50 and round(p50, 3),
                "server_p99_ms": p99 and round(p99, 3),
            },
        }

    def count(self, totals: Totals) -> None:
        """Add what the call had so far."""
        if self._track is not None:
            packets: Any = self.report()["packets"]
            totals.add(packets, self._track.delay_s)

    def _overdue(self, end: float) -> str | None:
        """Why the call has to end now, if it has; ``end`` is the longest time of a call."""
        now = time.monotonic()
        if now >= end:
            return "has reached the longest time of a call"
        if self._guard is not None and now - self._guard.heard > self._config.lost_time:
            return f"is lost: nothing has come for {self._config.lost_time:g} s"
        listens = self.seat.direction == "recvonly"
        if not listens and self._guard is not None and now - self._guard.spoken > self._config.idle_time:
            return f"is idle: no audio has come for {self._config.idle_time:g} s"
        return None

    def _on_state(self) -> None:
        match self._connection.connectionState:
            case "connected":
                self._connected.set()
                logger.info("connected")
            case "failed" | "closed":
                self.end()

    def _on_track(self, source: MediaStreamTrack, offer: Offer) -> None:
        (transceiver,) = self._connection.getTransceivers()
        self._reception = receiver.install(transceiver.receiver)
        encoding = self._encoded(offer)
        # Where aiortc encodes for us: its encoder makes mono into stereo 3 dB too low.
        layout: Layout = "stereo" if encoding is None or encoding.stereo else "mono"
        # Who talks in another codec at first (early media of a gateway) is not held to its band.
        codecs = getattr(transceiver, "_codecs", [])  # in the caller's order
        sends_opus = not codecs or codecs[0].mimeType.lower() == opus.MIME_TYPE
        rate = SAMPLE_RATE if sends_opus or self.seat.encoding is not None else None
        frames = self._reception.frames if self._reception is not None else None
        self._track = EnhancedTrack(source, self._engine, offer.controls, frames, layout, rate)
        self._track.on("ended", self.end)
        self._hear(self.seat.take(self._track))

    def _encoded(self, offer: Offer) -> opus.OpusOptions | None:
        """How the enhanced voice is to be encoded by us; None if by aiortc."""
        (transceiver,) = self._connection.getTransceivers()
        encoding = self.seat.encoding or self._config.opus.for_peer(offer.opus)
        if sender.install(transceiver.sender, encoding):
            self._encoding = encoding
        return self.seat.encoding or self._encoding

    def _hear(self, voice: MediaStreamTrack | None) -> None:
        if voice is not None:
            # a sender that fails stops its track, and nothing would be heard any more
            voice.on("ended", self.end)
            self._connection.addTrack(voice)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        self._channels += 1
        if self._channels > MOST_CHANNELS:
            logger.info("call %s opens data channels without end", self)
            self.end()
        elif channel.label == ControlChannel.LABEL and (self._channel is None or self._channel.closed):
            self._channel = ControlChannel(channel, self.turn, self.report)

    async def _free(self) -> None:
        self.end()
        if self._rebinding is not None:
            await self._rebinding.close()
        try:
            await closing.end(self._connection, f"call {self}")
        finally:
            if self._reception is not None:
                self._reception.close()
            await self.seat.leave()
            if self._track is not None:
                await self._track.closed()
