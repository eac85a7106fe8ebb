"""One enhanced voice to any number of listeners: encoded once, however many there are."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from percepnet.framing import SAMPLE_RATE

from .frames import PACKET
from .media.audiolevel import audio_level_dbov
from .media.opus import Encoded, OpusEncoder, OpusOptions, encoded
from .waiting import cancelled

WAITING_PACKETS: Final = 16  # that may wait for a slow listener before the oldest is dropped

logger = logging.getLogger(__name__)


class Broadcast:
    """A voice, of nobody at first, and its listeners. Publishers may follow one another; listeners stay.

    The audio of a publisher that follows another has the time after it, with the real pause in between, so that a
    listener's jitter buffer meets one stream without a break.
    """

    def __init__(self, encoding: OpusOptions) -> None:
        self.encoding = encoding
        self._listeners: set[ListenerTrack] = set()
        self._encoder: OpusEncoder | None = None
        self._reading: asyncio.Task[None] | None = None
        self._next = 0  # time of the packet after the last, samples of 48 kHz
        self._last = time.monotonic()  # when that was sent

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    @property
    def live(self) -> bool:
        """Whether somebody publishes."""
        return self._reading is not None and not self._reading.done()

    def listen(self) -> "ListenerTrack":
        """A track for one more listener; stopping it ends that."""
        track = ListenerTrack(self._listeners.discard)
        self._listeners.add(track)
        return track

    def publish(self, source: MediaStreamTrack) -> None:
        """Send what ``source`` gives, 20 ms of s16 at 48 kHz a frame in the encoding's layout, until it ends."""
        if self.live:
            raise RuntimeError("somebody publishes already")
        self._reading = asyncio.create_task(self._read(source), name="reader of a broadcast")

    async def unpublish(self) -> None:
        """Nothing of the source is heard any more."""
        if self._reading is not None:
            await cancelled(self._reading)

    async def _read(self, source: MediaStreamTrack) -> None:
        offset: int | None = None
        try:
            while True:
                frame = await source.recv()
                if not isinstance(frame, AudioFrame):
                    raise TypeError(f"a voice is av.AudioFrame, not {type(frame).__name__}")
                if offset is None:
                    assert frame.pts is not None
                    since = round((time.monotonic() - self._last) * SAMPLE_RATE / PACKET) * PACKET
                    offset = self._next + max(0, since - PACKET) - frame.pts
                self._send(frame, offset)
        except MediaStreamError:
            pass
        except Exception:
            logger.exception("a broadcast ends: its audio cannot be sent")
            source.stop()  # which ends the call that it comes from: its client can come back

    def _send(self, frame: AudioFrame, offset: int) -> None:
        level = audio_level_dbov(frame)
        if self._encoder is None:
            self._encoder = OpusEncoder(self.encoding)
        payloads, began = self._encoder.encode(frame, level)
        self._next = began + offset + PACKET
        self._last = time.monotonic()
        for payload in payloads:
            packet = encoded(payload, began + offset, level)
            for listener in self._listeners:
                listener.give(packet)


class ListenerTrack(MediaStreamTrack):
    """What one listener hears, as encoded packets. Silent, not ended, while nobody publishes."""

    kind = "audio"

    def __init__(self, leave: Callable[["ListenerTrack"], object]) -> None:
        super().__init__()
        self.dropped = 0  # packets that came while the queue was full
        self._leave = leave
        self._heard = False
        self._packets: deque[Encoded] = deque()
        self._news = asyncio.Event()

    def give(self, packet: Encoded) -> None:
        if len(self._packets) >= WAITING_PACKETS:
            self._packets.popleft()
            self.dropped += 1
        self._packets.append(packet)
        self._news.set()

    async def recv(self) -> Encoded:
        """The next packet; raises ``MediaStreamError`` once this track has been stopped.

        The first is the newest: those before came while the listener's connection was set up.
        """
        if not self._heard:
            self._heard = True
            while len(self._packets) > 1:
                self._packets.popleft()
        while not self._packets and self.readyState == "live":
            self._news.clear()
            await self._news.wait()
        if self.readyState != "live":
            raise MediaStreamError
        return self._packets.popleft()

    def stop(self) -> None:
        super().stop()
        self._leave(self)
        self._news.set()
