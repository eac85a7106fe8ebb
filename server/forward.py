"""Rooms pushed on: what is published here is published again, enhanced, at another server's WHIP endpoint."""

import asyncio
import logging
from typing import Final

import aiohttp
from aiortc import RTCRtpSender

from .backoff import Backoff
from .media import closing, opus, sender
from .rooms import Room
from .waiting import cancelled, first
from .whipclient import WhipSession, connection, told

CONNECT_TIME: Final = 15.0  # s
ANSWER_TIME: Final = 10.0  # s
ENDING_TIME: Final = 5.0  # s, of all pushes when the server ends

logger = logging.getLogger(__name__)


class Forwarding:
    """Pushes each room that somebody publishes in to ``url``, where ``{room}`` stands for its name.

    A publisher that goes takes the push along. A server that refuses, goes away or restarts is tried again, with
    the pauses of :class:`Backoff`.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url, self._token = url, token
        self._rooms: dict[str, Room] = {}  # the latest of each name
        self._tasks: dict[str, asyncio.Task[None]] = {}  # one at a time for each name
        self._closing = False

    def follow(self, room: Room) -> None:
        """Push ``room`` from now on until its publisher goes."""
        self._rooms[room.name] = room
        if room.name not in self._tasks:
            task = asyncio.create_task(self._push(room), name=f"push of room {room.name}")
            self._tasks[room.name] = task
            task.add_done_callback(lambda _: self._pushed(room.name))

    def _pushed(self, name: str) -> None:
        del self._tasks[name]
        room = self._rooms.pop(name)
        if room.published and not self._closing:  # anew, while the push ended
            self.follow(room)

    async def close(self) -> None:
        """Wait for the end of all pushes, of rooms that their publishers have left; for ``ENDING_TIME``."""
        self._closing = True
        tasks = list(self._tasks.values())
        if tasks:  # each tells the server that it pushed to, which else would take it for there
            await asyncio.wait(tasks, timeout=ENDING_TIME)
        await cancelled(*tasks)

    async def _push(self, room: Room) -> None:
        url = self._url.replace("{room}", room.name)
        timeout = aiohttp.ClientTimeout(ANSWER_TIME)
        backoff = Backoff()
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
            while room.published:
                try:
                    await self._session(http, url, room)
                except (OSError, TimeoutError, aiohttp.ClientError, ValueError) as error:
                    logger.warning("room %s cannot be pushed: %s", room.name, told(error))
                except Exception:  # an answer that aiortc does not take
                    logger.exception("room %s cannot be pushed", room.name)
                await first(backoff.pause(), room.left.wait())

    async def _session(self, http: aiohttp.ClientSession, url: str, room: Room) -> None:
        """One push until it or the room ends."""
        peer, over, connected = connection(), asyncio.Event(), asyncio.Event()

        def changed() -> None:
            if peer.connectionState == "connected":
                connected.set()
            elif peer.connectionState in ("failed", "closed"):
                over.set()

        peer.on("connectionstatechange", changed)
        heard = room.voice.listen()
        heard.on("ended", over.set)  # a sender that fails stops its track
        transceiver = peer.addTransceiver(heard, direction="sendonly")
        sender.install(transceiver.sender, room.voice.encoding)
        codecs = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([c for c in codecs if c.mimeType.lower() == opus.MIME_TYPE])
        session: WhipSession | None = None
        try:
            session = await WhipSession.open(http, url, peer, self._token)
            if transceiver.currentDirection not in ("sendonly", "sendrecv"):
                raise ConnectionError("its answer takes no audio")
            await first(room.left.wait(), connected.wait(), over.wait(), within=CONNECT_TIME)
            if connected.is_set():
                logger.info("room %s is pushed", room.name)
                await first(room.left.wait(), over.wait())
            if room.published:
                lost = "it is lost" if connected.is_set() else "it has failed" if over.is_set() else None
                raise ConnectionError(f"no connection: {lost or f'none within {CONNECT_TIME:g} s'}")
        finally:
            heard.stop()
            await closing.close(peer)
            if session is not None:
                await session.end(http)
