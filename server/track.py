"""The enhanced track: what a caller sends, through the engine, back as a media track."""

import asyncio
import logging
import time as clock
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from percepnet.framing import Float

from .allowance import Allowance
from .controls import Controls
from .engine import Engine
from .figures import Histogram, RecentDelays
from .frames import BACKLOG_PACKETS, FASTEST, FrameReader, FrameWriter, Layout, Packet, cut

KEPT_ARRIVALS: Final = 64
_PASSED: Final = -(1 << 62)  # time of a packet whose answer nobody waits for any more
DELAY_BOUNDS: Final = (0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)  # s
_UNREADABLE: Final = "a call ends: its audio cannot be read"

logger = logging.getLogger(__name__)


class Frames(Protocol):
    """What a source has before it is asked for it."""

    def flow(self, take: Callable[[AudioFrame | None, float | None], None]) -> None:
        """From now on call ``take`` with each frame, None at the end, and the ``time.monotonic()`` at which it came in,
        if known."""


class EnhancedTrack(MediaStreamTrack):
    """An audio track that returns what ``source`` brings, enhanced and 1440 samples (30 ms) late.

    Frames of any rate, layout and length go in. What comes out are 20 ms of packed s16 with the sample rate,
    time base and layout (mono or stereo) of the first frame, unless ``rate`` and ``layout`` say which, at the ``pts``
    of the input. Each packet is
    handed to the engine as it comes, not as it is asked for, so that the next can join a batch while one is
    encoded. The event loop does no more than turn s16 into float and back.

    Where there are ``frames`` they are those of ``source``, which then is not asked for any. Raises
    :class:`server.engine.EngineFull` when the engine has no stream left.
    """

    kind = "audio"

    def __init__(
        self,
        source: MediaStreamTrack,
        engine: Engine,
        controls: Controls | None = None,
        frames: Frames | None = None,
        layout: Layout | None = None,
        rate: int | None = None,
    ) -> None:
        super().__init__()
        self.skipped = 0  # packets that came faster than time, and enhanced ones that nobody fetched in time
        self.delay_s = Histogram(DELAY_BOUNDS)  # from a packet in to its packet out, over the whole call
        self._event_loop = asyncio.get_running_loop()
        self._source = source
        self._frames = frames
        self._layout, self._rate = layout, rate
        self._reader = FrameReader()
        self._writer: FrameWriter | None = None
        self._ready: deque[Packet] = deque()
        self._submitted = self._returned = 0
        self._source_ended = False
        self._pace = Allowance(FASTEST)
        self._news = asyncio.Event()
        self._arrivals: dict[int, float] = {}  # when the last part of each packet came, by the packet's time
        self._sending: float | None = None  # arrival of the packet that recv() returned last
        self._delays = RecentDelays()
        self._begun = False
        self._pump: asyncio.Task[None] | None = None
        self.port = engine.open(self._enhanced, controls, self._event_loop)

    async def recv(self) -> AudioFrame:
        """The next frame; raises ``MediaStreamError`` once the source or this track has ended."""
        # aiortc's sender fetches a frame as soon as the one before is on the wire.
        if self._sending is not None:
            delay = clock.monotonic() - self._sending
            self._delays.note(delay)
            self.delay_s.note(delay)
            self._sending = None
        if not self._begun and self.readyState == "live":
            self._begun = True
            if self._frames is not None:
                self._source.on("ended", lambda: self._take(None))
                self._frames.flow(self._take)
            else:
                self._pump = self._event_loop.create_task(self._feed(), name="feed of an enhanced track")
        while not self._ready and not self._over():
            self._news.clear()
            await self._news.wait()
        if not self._ready or self._writer is None or self.readyState == "ended":
            self.stop()
            raise MediaStreamError
        packet = self._ready.popleft()
        self._sending = self._arrivals.pop(packet.time, None)
        return self._writer.frame(packet)

    def _over(self) -> bool:
        under_way = self._submitted - self._returned - self.port.figures.dropped
        return self.readyState == "ended" or (self._source_ended and under_way <= 0)

    def delays_ms(self) -> tuple[float, float] | None:
        """Median and 99th percentile, over the last 10 s, of the time from a packet in to its packet out.

        That is what the server adds to the algorithm's own 30 ms. None before the first packet.
        """
        return self._delays.percentiles_ms()

    def stop(self) -> None:
        super().stop()
        self.port.close()
        if self._pump is not None:
            self._pump.cancel()
        self._news.set()

    async def closed(self) -> None:
        """Stop, and wait until nothing of the track runs any more."""
        self.stop()
        if self._pump is not None:
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _feed(self) -> None:
        try:
            while not self._source_ended:
                self._take(await self._source.recv())
        except MediaStreamError:
            pass
        except Exception:
            logger.exception(_UNREADABLE)
        self._take(None)

    def _take(self, frame: object, came: float | None = None) -> None:
        """Take a frame of the source, None at its end."""
        if self._source_ended or self.readyState == "ended":
            return
        if frame is not None:
            try:
                self._push(frame, came)
                return
            except Exception:
                logger.exception(_UNREADABLE)
        self._source_ended = True
        self._news.set()

    def _push(self, frame: object, came: float | None) -> None:
        if not isinstance(frame, AudioFrame):
            raise TypeError(f"a source of audio gives av.AudioFrame, not {type(frame).__name__}")
        if self._writer is None:
            self._writer = FrameWriter(frame, self._layout, self._rate)
        now = clock.monotonic()
        if not self._pace.has(now) and not self._reader.follows(frame):
            self.skipped += 1  # what it would take to join them is the time of all
            return
        came = now if came is None else came
        for packet in self._reader.push(frame, came):
            if not self._pace.take(now):  # or the engine would have no time for the calls of others
                self.skipped += 1
                continue
            if packet.in_time:
                self._arrivals[packet.time] = came
            self._submitted += 1
            self.port.submit(packet.time if packet.in_time else _PASSED, packet.samples)
        while len(self._arrivals) > KEPT_ARRIVALS:
            del self._arrivals[next(iter(self._arrivals))]

    def _enhanced(self, time: int, samples: Float) -> None:
        self._returned += 1
        self._news.set()
        if time == _PASSED:
            return
        self._ready.append(Packet(time, samples))
        if len(self._ready) > BACKLOG_PACKETS:
            dropped, kept = self._ready.popleft(), self._ready[0]
            self._ready[0] = Packet(kept.time, cut(dropped.samples, kept.samples))
            self.skipped += 1
