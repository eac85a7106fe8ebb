"""People in a Janus room: they speak a recording, and listen to others."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import aiohttp
from aiortc import MediaStreamTrack
from caller import Ear, RecordedTrack
from janus_server import ROOM, JanusServer

from percepnet.framing import Pcm
from server.media import audiolevel, receiver
from server.sidecar.claims import Feed, enhanced_feed
from server.sidecar.janus import Session, session
from server.sidecar.transport import Message, connected
from server.sidecar.twin import Peer
from server.sidecar.videoroom import Publisher, VideoRoom


@asynccontextmanager
async def in_session(janus: JanusServer, way: str = "ws") -> AsyncIterator[Session]:
    async with aiohttp.ClientSession() as http:
        transport = await connected(http, janus.urls[way])
        async with session(transport, janus.authorization) as made:
            yield made


class Speaker:
    """Publishes ``pcm`` again and again, inside ``async with``."""

    def __init__(self, room: VideoRoom, display: str, pcm: Pcm) -> None:
        audiolevel.install()
        self.id: Feed = 0
        self.peer = Peer("speaker", ())
        self._room = room
        self._display = display
        self._pcm = pcm

    async def __aenter__(self) -> Self:
        connection = self.peer.connection
        transceiver = connection.addTransceiver(self.track(), direction="sendonly")
        self.prepare(transceiver)
        handle = self.peer.handle = await self._room.attach(self.peer.hear)
        await connection.setLocalDescription(await connection.createOffer())
        local, mid = connection.localDescription, transceiver.mid
        self.id, answer = await self._room.publish(handle, self._display, "microphone", mid, local)
        await connection.setRemoteDescription(answer)
        await self.peer.connected()
        return self

    def track(self) -> MediaStreamTrack:
        return RecordedTrack(self._pcm)

    def prepare(self, transceiver: Any) -> None:
        """Before there is a connection."""

    async def __aexit__(self, *error: object) -> None:
        await self.peer.close()


class Listener:
    """Subscribes to a publisher, inside ``async with``."""

    def __init__(self, room: VideoRoom, publisher: Publisher) -> None:
        self.peer = Peer("listener", ())
        self.ear = Ear()
        self._room = room
        self._publisher = publisher
        self._reception: receiver.Reception | None = None

    async def __aenter__(self) -> Self:
        connection = self.peer.connection
        handle = self.peer.handle = await self._room.attach(self.peer.hear)
        connection.on("track", self.on_track)
        await connection.setRemoteDescription(await self._room.subscribe(handle, self._publisher))
        await connection.setLocalDescription(await connection.createAnswer())
        await self._room.start(handle, connection.localDescription)
        await self.peer.connected()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.peer.close()
        if self._reception is not None:
            self._reception.close()
        await self.ear.close()

    def on_track(self, track: MediaStreamTrack) -> None:
        (transceiver,) = self.peer.connection.getTransceivers()
        self._reception = receiver.install(transceiver.receiver)
        self.ear.listen(track)


class Watcher:
    """Somebody in the room who keeps a list of who publishes, as Janus tells them."""

    def __init__(self) -> None:
        self.publishers: dict[Feed, Publisher] = {}
        self.all_twins: set[Feed] = set()  # that have ever been
        self.most_at_once = 0  # twins of one publisher

    def hear(self, event: Message) -> None:
        data = event.get("plugindata", {}).get("data", {})
        for publisher in Publisher.listed(data)[0]:
            self.publishers[publisher.id] = publisher
            if (of := enhanced_feed(publisher.description)) is not None:
                self.all_twins.add(publisher.id)
                self.most_at_once = max(self.most_at_once, len(self.twins(of)))
        for word in ("unpublished", "leaving", "kicked"):
            self.publishers.pop(data.get(word), None)

    def twins(self, feed: Feed) -> list[Publisher]:
        """Of that publisher."""
        found = self.publishers.values()
        return [publisher for publisher in found if enhanced_feed(publisher.description) == str(feed)]


@asynccontextmanager
async def watching(
    janus: JanusServer, way: str = "ws", create: int | None = None
) -> AsyncIterator[tuple[VideoRoom, Watcher]]:
    """The room, or another that is made first, and somebody in it."""
    async with in_session(janus, way) as made:
        room, watcher = VideoRoom(made, create or ROOM, janus.pin), Watcher()
        async with AsyncExitStack() as stack:
            handle = await room.attach(watcher.hear)
            stack.push_async_callback(handle.detach)
            if create:
                await handle.ask({"request": "create", "room": create})
            watcher.hear({"plugindata": {"data": await room.join(handle, "watcher")}})
            yield room, watcher
