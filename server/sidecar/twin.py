"""A publisher's enhanced twin: a subscription to their audio, the engine, and a publication of its own."""

import asyncio
import logging
from typing import Final

from aiortc import MediaStreamTrack, RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from percepnet.framing import SAMPLE_RATE
from server.controls import Controls
from server.engine import Engine
from server.media import closing, guard, receiver, sender
from server.media.opus import OpusOptions
from server.track import EnhancedTrack
from server.values import IceServer
from server.waiting import finished

from . import figures
from .claims import Feed, twin_description, twin_display
from .following import TwinFailed
from .janus import Handle
from .transport import Message
from .videoroom import Publisher, VideoRoom

CONNECTING_TIME: Final = 15.0  # s, for each of the two connections

logger = logging.getLogger(__name__)


class Peer:
    """A connection to Janus, and the handle it belongs to."""

    def __init__(self, purpose: str, ice_servers: tuple[IceServer, ...]) -> None:
        self._purpose = purpose
        self.handle: Handle | None = None
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()  # its exception says how
        self._connected: asyncio.Future[None] = loop.create_future()
        servers = [RTCIceServer(s.url, s.username, s.credential) for s in ice_servers]
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self.connection.on("connectionstatechange", self._on_state)

    async def describe(self, description: RTCSessionDescription) -> None:
        """Set what Janus will be told, and stand before the sockets that it opens."""
        # Gathering ends by itself after 5 s; cancelled, it would lose its sockets.
        await finished(self.connection.setLocalDescription(description))
        (transceiver,) = self.connection.getTransceivers()
        guard.install(transceiver.sender.transport)

    async def connected(self) -> None:
        """Wait until it is; raises :class:`TwinFailed`."""
        try:
            async with asyncio.timeout(CONNECTING_TIME):
                await asyncio.shield(self._connected)
        except TimeoutError:
            raise TwinFailed(f"the {self._purpose} was not connected after {CONNECTING_TIME:g} s") from None

    def end(self, reason: str) -> None:
        for future in (self.ended, self._connected):
            if not future.done():
                future.set_exception(TwinFailed(f"the {self._purpose} {reason}"))
                future.exception()  # for whoever waits; nobody has to

    def hear(self, event: Message) -> None:
        """What Janus says of the handle, unasked."""
        if event["janus"] in ("hangup", "detached"):
            self.end(f"was ended by Janus: {event.get('reason', event['janus'])}")

    async def close(self) -> None:
        self.end("was closed")
        await closing.end(self.connection, f"a {self._purpose}")
        if self.handle is not None:
            await self.handle.detach()

    def _on_state(self) -> None:
        match self.connection.connectionState:
            case "connected" if not self._connected.done():
                self._connected.set_result(None)
            case "failed" | "closed":
                self.end("has lost its connection")


class Twin:
    """The twin of ``publisher``; :meth:`open` makes it, :meth:`close` gives back all it took, however far that was."""

    def __init__(
        self,
        room: VideoRoom,
        publisher: Publisher,
        engine: Engine,
        controls: Controls,
        ice_servers: tuple[IceServer, ...],
    ) -> None:
        self.id: Feed | None = None  # as a publisher
        self._room = room
        self._publisher = publisher
        self._engine = engine
        self._controls = controls
        self._track: EnhancedTrack | None = None
        self._reception: receiver.Reception | None = None
        self._subscription = Peer("subscription", ice_servers)
        self._publication = Peer("publication", ice_servers)

    async def open(self) -> None:
        """Subscribe and publish; raises :class:`TwinFailed`, ``EngineFull``, ``JanusError`` or ``SessionLost``.

        The subscription is answered last: before there is somebody to send to, audio would only pile up.
        """
        subscription = self._subscription.connection
        self._subscription.handle = await self._room.attach(self._subscription.hear)
        offer = await self._room.subscribe(self._subscription.handle, self._publisher)
        subscription.on("track", self._on_track)
        await subscription.setRemoteDescription(offer)
        if self._track is None:
            raise TwinFailed("the subscription brings no audio")
        await self._publish(self._track)
        await self._subscription.describe(await subscription.createAnswer())
        await self._room.start(self._subscription.handle, subscription.localDescription)
        await self._subscription.connected()

    async def ended(self) -> None:
        """Wait until the twin cannot go on; raises :class:`TwinFailed`."""
        ends = (self._subscription.ended, self._publication.ended)
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()

    async def close(self) -> None:
        await asyncio.gather(self._publication.close(), self._subscription.close())
        if self._reception is not None:
            self._reception.close()
        if self._track is not None:
            await self._track.closed()

    def report(self) -> dict[str, object]:
        """Figures, ready for JSON. Levels in dBFS, times in ms."""
        if self._track is None or self.id is None:
            return {"state": "connecting"}
        counts = self._reception.counts if self._reception else None
        return {
            "state": self._publication.connection.connectionState,
            "twin": self.id,
            **figures.of_twin(
                self._track.port,
                self._track.skipped,
                self._track.delays_ms(),
                lost=counts.lost if counts else None,
                late=counts.late if counts else None,
            ),
        }

    def _on_track(self, source: MediaStreamTrack) -> None:
        (transceiver,) = self._subscription.connection.getTransceivers()
        self._reception = receiver.install(transceiver.receiver)
        frames = self._reception.frames if self._reception is not None else None
        self._track = EnhancedTrack(source, self._engine, self._controls, frames, "mono", SAMPLE_RATE)
        self._track.on("ended", lambda: self._subscription.end("brings no more audio"))

    async def _publish(self, track: EnhancedTrack) -> None:
        connection, publisher = self._publication.connection, self._publisher
        transceiver = connection.addTransceiver(track, direction="sendonly")
        sender.install(transceiver.sender, OpusOptions())
        handle = self._publication.handle = await self._room.attach(self._publication.hear)
        await self._publication.describe(await connection.createOffer())
        assert transceiver.mid is not None  # there is one with the description
        self.id, answer = await self._room.publish(
            handle,
            twin_display(publisher.display),
            twin_description(publisher.id),
            transceiver.mid,
            connection.localDescription,
        )
        await connection.setRemoteDescription(answer)
        await self._publication.connected()
