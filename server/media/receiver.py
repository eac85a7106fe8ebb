"""Our jitter buffer and a bounded queue in the place of aiortc's, inside one of its receivers.

aiortc prefetches four packets, a steady 80 ms, and stalls at every hole; the queue of its remote track has no
bound, so a slow reader turns into delay and memory. Neither has a public switch.
"""

import asyncio
import logging
from typing import Any, Final

import aiortc
from aiortc import RTCRtpReceiver
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

from percepnet.framing import SAMPLE_RATE

from .jitterbuffer import AudioJitterBuffer, Counts

MADE_FOR: Final = "1.14 to 1.16"
QUEUE_FRAMES: Final = 16  # decoded frames that may wait for the reader of the track
ARRIVALS: Final = 64  # packets whose time of arrival is remembered
NEW_SOURCE_STEP: Final = (
    0.020  # s between the last packet of a source and the first of the one that follows it
)
_PRIVATE: Final = "_RTCRtpReceiver__"
_NEEDED: Final = ("jitter_buffer", "codecs", "decoder_queue", "decoder_thread", "timestamp_mapper")

logger = logging.getLogger(__name__)


class LatestFrames(asyncio.Queue[Any]):
    """A queue that never blocks its writer and never grows: when it is full the oldest frame goes."""

    def __init__(self, maxsize: int = QUEUE_FRAMES) -> None:
        super().__init__(maxsize)
        self.dropped = 0

    async def put(self, item: Any) -> None:
        while self.full():
            self.get_nowait()
            self.dropped += 1
        self.put_nowait(item)


class Reception:
    """Stands where ``receiver`` has its jitter buffer, and hands what leaves it to the receiver's decoder."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self.frames = LatestFrames()
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._buffer: AudioJitterBuffer[tuple[RtpPacket, float]] = AudioJitterBuffer()
        self._earlier = Counts()  # of sources that this one has followed
        self._source: int | None = None  # SSRC
        self._timer: asyncio.TimerHandle | None = None
        self._timestamp: int | None = None  # RTP timestamp of the last packet released
        self._position = 0  # the same without wraps, from 0
        self._arrivals: dict[int, float] = {}

    @property
    def counts(self) -> Counts:
        now, earlier = self._buffer.counts, self._earlier
        return Counts(
            received=now.received + earlier.received,
            lost=now.lost + earlier.lost,
            late=now.late + earlier.late,
            duplicate=now.duplicate + earlier.duplicate,
        )

    def arrived(self, time: int) -> float | None:
        """Loop time at which the packet that starts at ``time`` (samples of 48 kHz) came, if still known."""
        return self._arrivals.get(time)

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Called by aiortc's receiver for each packet. Frames go to the decoder from here, none back."""
        if packet.ssrc != self._source:
            self._follow(packet.ssrc)
        now = self._loop.time()
        self._decode(self._buffer.add(packet.sequence_number, (packet, now), now))
        self._schedule()
        return False, None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _follow(self, source: int) -> None:
        self._earlier = self.counts
        self._buffer = AudioJitterBuffer()
        self._source = source
        self._timestamp = None

    def _schedule(self) -> None:
        deadline = self._buffer.deadline
        if self._timer is not None and self._timer.when() != deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None:
            self._timer = self._loop.call_at(deadline, self._expire, deadline)

    def _expire(self, deadline: float) -> None:
        self._timer = None
        self._decode(self._buffer.expire(max(deadline, self._loop.time())))
        self._schedule()

    def _decode(self, packets: list[tuple[RtpPacket, float]]) -> None:
        codecs = getattr(self._receiver, _PRIVATE + "codecs")
        for packet, came in packets:
            codec = codecs[packet.payload_type]
            if self._timestamp is not None:
                step = packet.timestamp - self._timestamp & 0xFFFFFFFF
                self._position += step - (step >> 31 << 32)
            elif self._arrivals:
                self._position += round(NEW_SOURCE_STEP * codec.clockRate)
            self._timestamp = packet.timestamp
            self._note(self._position * SAMPLE_RATE // codec.clockRate, came)
            data = packet._data  # type: ignore[attr-defined]
            # An empty packet would tell libavcodec that the stream is over.
            if data and getattr(self._receiver, _PRIVATE + "decoder_thread") is not None:
                frame = JitterFrame(data, self._position)
                getattr(self._receiver, _PRIVATE + "decoder_queue").put((codec, frame))

    def _note(self, time: int, came: float) -> None:
        self._arrivals[time] = came
        while len(self._arrivals) > ARRIVALS:
            del self._arrivals[next(iter(self._arrivals))]


def install(receiver: RTCRtpReceiver) -> Reception | None:
    """Put a :class:`Reception` into an audio receiver that has its track and has not started.

    Returns None, with a warning, where aiortc is not built as it must be for that; the call then works with
    aiortc's own buffer and its delay.
    """
    missing = [name for name in _NEEDED if not hasattr(receiver, _PRIVATE + name)]
    if missing or not isinstance(getattr(receiver.track, "_queue", None), asyncio.Queue):
        logger.warning(
            "aiortc %s is not built like %s, which our jitter buffer was made for (no %s): it keeps its own",
            aiortc.__version__,
            MADE_FOR,
            ", ".join(missing) or "queue of the track",
        )
        return None
    reception = Reception(receiver)
    setattr(receiver, _PRIVATE + "jitter_buffer", reception)
    receiver.track._queue = reception.frames  # type: ignore[attr-defined]
    return reception
