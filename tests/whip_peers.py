"""Peers of aiortc that publish by WHIP and listen by WHEP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame
from caller import RecordedTrack
from calling import until

from percepnet.framing import Pcm
from server import whipclient
from server.media import closing
from server.whipclient import WhipSession


class Ear:
    """Keeps what a track brings."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, Pcm]] = []

    async def listen(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                assert isinstance(frame, AudioFrame)
                assert frame.pts is not None
                pcm = np.asarray(frame.to_ndarray(), np.int16).reshape(frame.samples, -1)
                self.frames.append((frame.pts, pcm[:, 0]))

    async def has(self, count: int) -> Pcm:
        """That many frames, once they are there, as one signal; on a busy machine with holes."""
        await until(lambda: len(self.frames) >= count, f"{count} frames")
        frames = self.frames[:count]
        (first, _), (last, pcm) = frames[0], frames[-1]
        signal = np.zeros(last - first + len(pcm), np.int16)
        for pts, pcm in frames:
            signal[pts - first :][: len(pcm)] = pcm
        return signal


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
async def listening(http: aiohttp.ClientSession, room: str) -> AsyncIterator[tuple[Ear, WhipSession]]:
    connection, ear = whipclient.connection(), Ear()
    connection.addTransceiver("audio", direction="recvonly")
    tasks: list[asyncio.Task[None]] = []
    connection.on("track", lambda track: tasks.append(asyncio.create_task(ear.listen(track))))
    try:
        session = await WhipSession.open(http, f"/whep/{room}", connection)
        try:
            yield ear, session
        finally:
            await session.end(http)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await closing.close(connection)
