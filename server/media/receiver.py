"""Our jitter buffer, decoding on the event loop and a bounded queue, inside one of aiortc's receivers.

aiortc prefetches four packets, a steady 80 ms, and stalls at every hole; it decodes each in a thread of the
receiver, with two hops for what takes 0.05 ms; and the queue of its remote track has no bound, so a slow
reader turns into delay and memory. None of these has a public switch.
"""

import asyncio
import inspect
import logging
import time
from typing import Any, Final

import aiortc
import aiortc.rtcrtpreceiver
import av
from aiortc import RTCRtpReceiver
from aiortc.codecs import get_decoder
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from percepnet.framing import SAMPLE_RATE

from .jitterbuffer import AudioJitterBuffer, Counts
from .opus import MIME_TYPE, OpusDecoder

MADE_FOR: Final = "1.14 to 1.16"
QUEUE_FRAMES: Final = 16  # decoded frames that may wait for the reader of the track
ARRIVALS: Final = 64  # packets whose time of arrival is remembered
NEW_SOURCE_STEP: Final = (
    0.020  # s between the last packet of a source and the first of the one that follows it
)
_PRIVATE: Final = "_RTCRtpReceiver__"
_NEEDED: Final = ("jitter_buffer", "codecs", "decoder_queue", "decoder_thread")
_WORKER: Final = "decoder_worker"  # what the decoder's thread runs
_WORKER_PARAMETERS: Final = ["loop", "input_q", "output_q", "decode_error"]

logger = logging.getLogger(__name__)


class LatestFrames(asyncio.Queue[Any]):
    """A queue that never blocks its writer and never grows: when it is full the oldest frame goes."""

    def __init__(self, maxsize: int = QUEUE_FRAMES) -> None:
        super().__init__(maxsize)
        self.dropped = 0

    def add(self, item: Any) -> None:
        while self.full():
            self.get_nowait()
            self.dropped += 1
        self.put_nowait(item)

    async def put(self, item: Any) -> None:
        """Nothing: for the end of aiortc's decoder thread, which is not the end of the track."""


class NoDecoderThread:
    """Stands where a receiver has the queue to its decoder's thread; what else comes there goes to ``frames``.

    The thread ends before it has begun, because the first thing it gets is the word that all is over. That word
    from the receiver itself, when it stops, ends the track.
    """

    def __init__(self, frames: LatestFrames) -> None:
        self.ended = False
        self._frames = frames

    def get(self) -> None:
        return None

    def put(self, item: None) -> None:
        if not self.ended:
            self.ended = True
            self._frames.add(None)


class Reception:
    """Stands where ``receiver`` has its jitter buffer, and decodes what leaves it."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self.frames = LatestFrames()
        self.undecodable = 0  # packets
        self.decoder_queue = NoDecoderThread(self.frames)
        self._receiver = receiver
        self._event_loop = asyncio.get_running_loop()
        self._buffer: AudioJitterBuffer[tuple[RtpPacket, float]] = AudioJitterBuffer()
        self._earlier = Counts()  # of sources that this one has followed
        self._source: int | None = None  # SSRC
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None  # when the timer goes off
        self._timestamp: int | None = None  # RTP timestamp of the last packet released
        self._position = 0  # the same without wraps, from 0
        self._arrivals: dict[int, float] = {}
        self._decoder: Decoder | None = None
        self._decodes = ""  # MIME type

    @property
    def counts(self) -> Counts:
        now, earlier = self._buffer.counts, self._earlier
        return Counts(
            received=now.received + earlier.received,
            lost=now.lost + earlier.lost,
            late=now.late + earlier.late,
            duplicate=now.duplicate + earlier.duplicate,
        )

    def arrived(self, position: int) -> float | None:
        """``time.monotonic()`` when the packet that starts at ``position`` (samples of 48 kHz) came, if still known."""
        return self._arrivals.get(position)

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Called by aiortc's receiver for each packet. Frames are decoded from here, none go back."""
        if packet.ssrc != self._source:
            self._follow(packet.ssrc)
        now = time.monotonic()  # that of uvloop counts whole milliseconds
        self._release(self._buffer.add(packet.sequence_number, (packet, now), now))
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
        if self._timer is not None and self._due != deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and deadline is not None:
            wait = max(0.0, deadline - time.monotonic())
            self._timer = self._event_loop.call_later(wait, self._expire, deadline)
            self._due = deadline

    def _expire(self, deadline: float) -> None:
        self._timer = None
        self._release(self._buffer.expire(max(deadline, time.monotonic())))
        self._schedule()

    def _release(self, packets: list[tuple[RtpPacket, float]]) -> None:
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
            if data and not self.decoder_queue.ended:
                self._decode(codec, JitterFrame(data, self._position))

    def _decode(self, codec: RTCRtpCodecParameters, frame: JitterFrame) -> None:
        mime_type = codec.mimeType.lower()
        if self._decoder is None or mime_type != self._decodes:
            self._decoder = OpusDecoder() if mime_type == MIME_TYPE else get_decoder(codec)
            self._decodes = mime_type
        try:
            decoded = self._decoder.decode(frame)
        except av.FFmpegError as error:
            self.undecodable += 1
            if self.undecodable == 1:
                logger.warning("a call has packets that are no %s: %s", codec.name, error)
            return
        for audio in decoded:
            self.frames.add(audio)

    def _note(self, position: int, came: float) -> None:
        self._arrivals[position] = came
        while len(self._arrivals) > ARRIVALS:
            del self._arrivals[next(iter(self._arrivals))]


def install(receiver: RTCRtpReceiver) -> Reception | None:
    """Put a :class:`Reception` into an audio receiver that has its track and has not started.

    Returns None, with a warning, where aiortc is not built as it must be for that; the call then works with
    aiortc's own buffer and its delay, and its decoder thread.
    """
    missing = [name for name in _NEEDED if not hasattr(receiver, _PRIVATE + name)]
    if not isinstance(getattr(receiver.track, "_queue", None), asyncio.Queue):
        missing.append("queue of the track")
    worker = getattr(aiortc.rtcrtpreceiver, _WORKER, None)
    if not callable(worker) or list(inspect.signature(worker).parameters) != _WORKER_PARAMETERS:
        missing.append(f"{_WORKER}({', '.join(_WORKER_PARAMETERS)})")
    if missing:
        logger.warning(
            "aiortc %s is not built like %s, which our jitter buffer was made for (no %s): it keeps its own",
            aiortc.__version__,
            MADE_FOR,
            ", ".join(missing),
        )
        return None
    reception = Reception(receiver)
    setattr(receiver, _PRIVATE + "jitter_buffer", reception)
    setattr(receiver, _PRIVATE + "decoder_queue", reception.decoder_queue)
    receiver.track._queue = reception.frames  # type: ignore[attr-defined]
    return reception
