"""Peers of aiortc that publish by WHIP and listen by WHEP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from caller import Ear, RecordedTrack
from calling import until

from percepnet.framing import Pcm
from server import whipclient
from server.media import closing
from server.whipclient import WhipSession


class Listener(Ear):
    """Of WHEP."""

    async def has(self, count: int) -> Pcm:
        """That many frames, once they are there, as one signal; on a busy machine with holes."""
        await until(lambda: len(self.frames) >= count, f"{count} frames")
        return self.heard(count)


@asynccontextmanager
async def publishing(
    http: aiohttp.ClientSession, room: str, pcm: Pcm, query: str = ""
) -> AsyncIterator[WhipSession]:
    connection = whipclient.connection()
    connection.addTransceiver(RecordedTrack(pcm), direction="sendonly")
    try:
        session = await WhipSession.open(http, f"/whip/{room}{query}", connection)
        try:
            yield session
        finally:
            await session.end(http)
    finally:
        await closing.close(connection)


@asynccontextmanager
async def listening(http: aiohttp.ClientSession, room: str) -> AsyncIterator[tuple[Listener, WhipSession]]:
    connection, ear = whipclient.connection(), Listener()
    connection.addTransceiver("audio", direction="recvonly")
    connection.on("track", ear.listen)
    try:
        session = await WhipSession.open(http, f"/whep/{room}", connection)
        try:
            yield ear, session
        finally:
            await session.end(http)
    finally:
        await ear.close()
        await closing.close(connection)
