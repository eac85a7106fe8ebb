"""One voice on its way: what LiveKit's SDK hears of a track, through the engine, into a track of our own."""

import asyncio
import time
from collections import deque
from typing import Final

import numpy as np

from percepnet.framing import SAMPLE_RATE, Float, from_pcm, to_pcm
from server.controls import Controls
from server.engine import Engine
from server.figures import RecentDelays
from server.frames import BACKLOG_PACKETS, PACKET, cut
from server.waiting import first

from .sdk import rtc

PACKET_MS: Final = 1000 * PACKET // SAMPLE_RATE
SDK_FRAME: Final = SAMPLE_RATE // 100  # samples that a source without a queue takes at a time


class Voice:
    """What is heard of ``heard``, enhanced, is ``track``, named ``name``; both while :meth:`run` runs.

    The SDK plays each track out at an even pace, with its own jitter buffer and concealment, also while its
    participant is muted or the network is gone. So our source needs no queue, whose silence at every packet that
    is late by a little would be heard. What waits is bounded on both sides of the engine: when the event loop or the
    SDK are slow the oldest packets go.

    Raises :class:`server.engine.EngineFull` when the engine has no stream left.
    """

    def __init__(self, heard: rtc.Track, name: str, engine: Engine, controls: Controls) -> None:
        self.skipped = 0  # enhanced packets that nobody fetched in time
        self.delays = RecentDelays()  # from a packet in to its packet out
        self._news = asyncio.Event()
        self._ready: deque[tuple[int, Float]] = deque()
        self._came: deque[tuple[int, float]] = deque(maxlen=2 * BACKLOG_PACKETS)  # times and when, s
        self.port = engine.open(self._enhanced, controls, asyncio.get_running_loop())
        try:
            self._source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=0)
            self.track = rtc.LocalAudioTrack.create_audio_track(name, self._source)
            self._heard = rtc.AudioStream(
                heard,
                capacity=BACKLOG_PACKETS,
                sample_rate=SAMPLE_RATE,
                num_channels=1,
                frame_size_ms=PACKET_MS,
            )
        except BaseException:
            self.port.close()
            raise

    async def run(self) -> None:
        """Until what is heard ends."""
        await first(self._hear(), self._speak())

    async def close(self) -> None:
        """After :meth:`run`."""
        self.port.close()
        await self._heard.aclose()
        await self._source.aclose()

    async def _hear(self) -> None:
        time_ = 0
        async for event in self._heard:
            self._came.append((time_, time.monotonic()))
            self.port.submit(time_, from_pcm(np.frombuffer(event.frame.data, np.int16)))
            time_ += PACKET

    def _enhanced(self, time_: int, samples: Float) -> None:
        self._ready.append((time_, samples))
        if len(self._ready) > BACKLOG_PACKETS:
            (_, dropped), (time_, kept) = self._ready.popleft(), self._ready[0]
            self._ready[0] = time_, cut(dropped, kept)
            self.skipped += 1
        self._news.set()

    async def _speak(self) -> None:
        while True:
            while not self._ready:
                self._news.clear()
                await self._news.wait()
            time_, samples = self._ready.popleft()
            for part in to_pcm(samples).reshape(-1, SDK_FRAME):
                # One after the other: the SDK hands them over in threads of its own.
                await self._source.capture_frame(rtc.AudioFrame(part.tobytes(), SAMPLE_RATE, 1, SDK_FRAME))
            self._note(time_)

    def _note(self, time_: int) -> None:
        while self._came and self._came[0][0] <= time_:
            came, at = self._came.popleft()
            if came == time_:
                self.delays.note(time.monotonic() - at)
