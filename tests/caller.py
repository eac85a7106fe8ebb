"""A caller as a program: sends recorded audio in real time, keeps what comes back."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCDataChannel
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from percepnet.framing import SAMPLE_RATE, Pcm
from server.frames import PACKET, TIME_BASE
from server.loadtest.line import Line
from server.media import audiolevel, receiver
from server.waiting import cancelled
from server.weather.relay import Relay


class RecordedTrack(MediaStreamTrack):
    """Mono ``pcm`` in real time, again and again; starts with the first ``recv()``.

    In both channels, because aiortc's encoder makes mono into stereo 3 dB too low.
    """

    kind = "audio"

    def __init__(self, pcm: Pcm) -> None:
        super().__init__()
        self._pcm = pcm
        self._began: float | None = None
        self._sent = 0  # samples

    async def recv(self) -> AudioFrame:
        if self.readyState == "ended":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._began is None:
            self._began = loop.time()
        await asyncio.sleep(self._began + self._sent / SAMPLE_RATE - loop.time())
        samples = self._pcm.take(range(self._sent, self._sent + PACKET), mode="wrap")
        frame = AudioFrame.from_ndarray(samples.repeat(2)[np.newaxis], format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, TIME_BASE, self._sent
        self._sent += PACKET
        return frame


class Ear:
    """Keeps what a track brings."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, Pcm]] = []  # pts, mono samples
        self.first = asyncio.Event()  # there is one
        self._reader: asyncio.Task[None] | None = None

    def listen(self, track: MediaStreamTrack) -> None:
        self._reader = asyncio.create_task(self._read(track))

    async def close(self) -> None:
        if self._reader is not None:
            await cancelled(self._reader)  # a track that never received anything is never told of its end

    def heard(self, count: int | None = None) -> Pcm:
        """The first ``count`` frames, or all, as one signal; silence where nothing came."""
        frames = self.frames[:count]
        start = frames[0][0]
        pcm = np.zeros(max(pts + len(samples) for pts, samples in frames) - start, np.int16)
        for pts, samples in frames:
            pcm[pts - start : pts - start + len(samples)] = samples
        return pcm

    async def _read(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                assert isinstance(frame, AudioFrame)
                assert frame.pts is not None
                samples = np.asarray(frame.to_ndarray(), np.int16).reshape(frame.samples, -1)
                self.frames.append((frame.pts, samples[:, 0].copy()))
                self.first.set()


class Caller(Line):
    """One call to the server at ``url``, as an async context manager that is connected inside.

    It hears as a listener would, in real time; all but ``pcm`` as in :class:`Line`.
    """

    def __init__(
        self,
        url: str,
        pcm: Pcm,
        options: Mapping[str, object] | None = None,
        relay: Relay | None = None,
        configuration: RTCConfiguration | None = None,
    ) -> None:
        audiolevel.install()
        super().__init__(url, RecordedTrack(pcm), options, relay, configuration)
        self.channel: RTCDataChannel = self.connection.createDataChannel("control")
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()  # from the control channel
        self.ear = Ear()
        self.frames = self.ear.frames  # what came back
        self._open = asyncio.Event()
        self._reception: receiver.Reception | None = None
        self.connection.on("track", self._on_track)
        self.channel.on("open", self._open.set)
        self.channel.on("message", lambda text: self.messages.put_nowait(json.loads(text)))

    async def __aenter__(self) -> Self:
        try:
            await self.call()
            async with asyncio.timeout(15):
                await self._open.wait()
                await self.ear.first.wait()
        except BaseException:
            await self.hang_up()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.hang_up()

    async def hang_up(self) -> None:
        await super().hang_up()
        if self._reception is not None:
            self._reception.close()
        await self.ear.close()

    def heard(self) -> Pcm:
        """All that has come back."""
        return self.ear.heard()

    def _on_track(self, track: MediaStreamTrack) -> None:
        self._reception = receiver.install(self.transceiver.receiver)
        self.ear.listen(track)
