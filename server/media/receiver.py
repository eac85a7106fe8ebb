"""Our jitter buffer, decoding on the event loop and a bounded queue, inside one of aiortc's receivers.

aiortc prefetches four packets, a steady 80 ms, and stalls at every hole; it decodes each in a thread of the
receiver, with two hops for what takes 0.05 ms; and the queue of its remote track has no bound, so a slow
reader turns into delay and memory. None of these has a public switch.
"""

import asyncio
import inspect
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, TypeAlias

import aiortc
import aiortc.rtcrtpreceiver
from aiortc import RTCRtpReceiver
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket
from av import AudioFrame

from percepnet.framing import SAMPLE_RATE

from ..allowance import Allowance
from ..frames import FASTEST, LONGEST_BACKLOG, PACKET
from .decoding import Audio, Decoding
from .fitting import fits
from .guard import MOST_SOURCES
from .jitter import LONGEST_WAIT, HoleWait, InterarrivalJitter
from .jitterbuffer import AudioJitterBuffer, Counts

_PRIVATE: Final = "_RTCRtpReceiver__"
_CODECS: Final = _PRIVATE + "codecs"  # by payload type
_STREAMS: Final = _PRIVATE + "remote_streams"  # statistics of each source, the oldest first
_NEEDED: Final = ("jitter_buffer", "codecs", "decoder_queue", "decoder_thread", "remote_streams")
_WORKER: Final = "decoder_worker"  # what the decoder's thread runs
_WORKER_PARAMETERS: Final = ["loop", "input_q", "output_q", "decode_error"]

Arrival: TypeAlias = tuple[RtpPacket, RTCRtpCodecParameters, float]  # the last: time.monotonic() when it came


class SteadyTime:
    """Stands where aiortc's receivers have the module ``time``, of which they use ``time()`` for differences only.

    Of the wall clock a jump of hours becomes a jitter that no report has room for; the task of the reports dies of
    it, and the receiver then waits for that for ever when it is to stop.
    """

    time = staticmethod(time.monotonic)


class Statistics(aiortc.rtcrtpreceiver.StreamStatistics):
    """Stands where aiortc's receivers have theirs, whose jitter takes timestamps for numbers without end.

    Those that jump to and fro make more of it than a report has room for, with the same end. And ``max_seq`` is the
    extended number (RFC 3550, 6.4.1) in 32 bits, for reports take it as it is: aiortc's goes back by 65536 at each
    wrap.
    """

    def add(self, packet: RtpPacket) -> None:
        if self._last_timestamp is not None:
            step = (packet.timestamp - self._last_timestamp + (1 << 31)) % (1 << 32) - (1 << 31)
            self._last_timestamp = packet.timestamp - step
        wraps = 0
        if self.max_seq is not None:
            wraps, self.max_seq = divmod(self.max_seq, 1 << 16)
        super().add(packet)
        assert self.max_seq is not None
        self.max_seq = (self.max_seq + (wraps << 16) + self.cycles) % (1 << 32)
        self.cycles = 0


class LatestFrames(asyncio.Queue[Any]):
    """A queue that never blocks its writer and is bounded in time: when it is full the oldest frames go.

    Who takes frames as they come (:meth:`flow`) is spared the queue, and a task that waits at it.
    """

    def __init__(self, longest: float = LONGEST_BACKLOG) -> None:
        super().__init__()
        self.dropped = 0  # frames
        self._longest = round(longest * SAMPLE_RATE)
        self._waiting = 0  # samples of 48 kHz
        self._take: Callable[[AudioFrame | None, float | None], None] | None = None

    def flow(self, take: Callable[[AudioFrame | None, float | None], None]) -> None:
        """From now on call ``take`` with each frame and when it came, in place of queueing it; first with those that
        wait, of which that is forgotten."""
        self._take = take
        while not self.empty():
            take(self.get_nowait(), None)

    def add(self, frame: AudioFrame | None, came: float | None = None) -> None:
        """Queue a frame that came at ``came``, ``time.monotonic()``; None is the end of the track."""
        if self._take is not None:
            self._take(frame, came)
            return
        self.put_nowait(frame)
        while self._waiting > self._longest:
            self.get_nowait()
            self.dropped += 1

    async def put(self, item: Any) -> None:
        """Nothing: for the end of aiortc's decoder thread, which is not the end of the track."""

    def _put(self, item: Any) -> None:
        super()._put(item)
        self._waiting += _duration(item)

    def _get(self) -> Any:
        item = super()._get()
        self._waiting -= _duration(item)
        return item


def _duration(frame: AudioFrame | None) -> int:
    return frame.samples * SAMPLE_RATE // frame.sample_rate if frame is not None else 0


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
        self.decoder_queue = NoDecoderThread(self.frames)
        self._receiver = receiver
        self._event_loop = asyncio.get_running_loop()
        self._decoding = Decoding(self._deliver)
        self._pace = Allowance(FASTEST, now=time.monotonic())
        self._jitter = InterarrivalJitter()
        self._hole_wait = HoleWait()
        self._buffer: AudioJitterBuffer[Arrival] = AudioJitterBuffer(self._hole_wait)
        self._earlier = Counts()  # of sources that this one has followed
        self._source: int | None = None  # SSRC
        self._since = -math.inf  # time.monotonic() when it took over
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None  # when the timer goes off
        self._codec: RTCRtpCodecParameters | None = None  # of that
        self._came = 0.0  # time.monotonic() when the packet that is decoded did

    @property
    def counts(self) -> Counts:
        return self._buffer.counts + self._earlier

    @property
    def audio(self) -> Audio:
        return self._decoding.audio

    def network(self) -> dict[str, float]:
        """How the network is and what it did to the audio, ms."""
        audio = self.audio
        return {
            "jitter_ms": round(self._jitter.value * 1e3, 3),
            "hole_wait_ms": round(self._hole_wait.wait(time.monotonic()) * 1e3, 3),
            "received_ms": audio.received * 1000 / SAMPLE_RATE,
            "recovered_ms": audio.recovered * 1000 / SAMPLE_RATE,
            "concealed_ms": audio.concealed * 1000 / SAMPLE_RATE,
            "missing_ms": audio.missing * 1000 / SAMPLE_RATE,
        }

    def packets(self) -> dict[str, int]:
        """What became of the packets."""
        return {
            **asdict(self.counts),
            "recovered": self.audio.recovered_packets,
            "concealed": self.audio.concealed_packets,
            "undecodable": self.audio.undecodable,
        }

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Called by aiortc's receiver for each packet. Frames are decoded from here, none go back."""
        now = time.monotonic()  # that of uvloop counts whole milliseconds
        if packet.ssrc != self._source:
            if now - self._since < LONGEST_WAIT:
                # It was overtaken by the first of the source that took over, or sources change faster than time.
                self._earlier += Counts(received=1, late=1)
                return False, None
            if self._source is not None:
                self._since = now
            self._follow(packet.ssrc)
        codec = getattr(self._receiver, _CODECS)[packet.payload_type]
        self._jitter.note(now, packet.timestamp, codec.clockRate)
        self._release(self._buffer.add(packet.sequence_number, (packet, codec, now), now))
        self._schedule()
        return False, None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _follow(self, source: int) -> None:
        self._release(self._buffer.flush())
        self._earlier = self.counts
        self._buffer = AudioJitterBuffer(self._hole_wait)
        self._source = source
        streams = getattr(self._receiver, _STREAMS)
        for old in list(streams)[:-MOST_SOURCES]:  # a report of more cannot be written
            del streams[old]
        self._jitter.restart()
        self._decoding.new_source()

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

    def _release(self, packets: list[Arrival]) -> None:
        for packet, codec, came in packets:
            if self.decoder_queue.ended:
                return
            if not self._pace.has(came):  # what it takes to decode them is the time of all
                self.frames.dropped += 1
                continue
            if codec is not self._codec:  # a new decoder costs as much as a packet
                self._pace.take(came)
                self._codec = codec
            self._came = came
            data = packet._data  # type: ignore[attr-defined]
            self._decoding.decode(codec, packet.sequence_number, packet.timestamp, data, came)

    def _deliver(self, frame: AudioFrame) -> None:
        self._pace.take(self._came, _duration(frame) / PACKET)
        self.frames.add(frame, self._came)


def install(receiver: RTCRtpReceiver) -> Reception | None:
    """Put a :class:`Reception` into an audio receiver that has its track and has not started.

    Returns None, with a warning, where aiortc is not built as it must be for that; the call then works with
    aiortc's own buffer and its delay, and its decoder thread.
    """
    missing = [name for name in _NEEDED if not hasattr(receiver, _PRIVATE + name)]
    if not isinstance(getattr(receiver.track, "_queue", None), asyncio.Queue):
        missing.append("queue of the track")
    missing += [] if hasattr(aiortc.rtcrtpreceiver, "time") else ["time"]
    handle = getattr(RTCRtpReceiver, "_handle_rtp_packet", None)
    if "_data" not in getattr(getattr(handle, "__code__", None), "co_names", ()):
        missing.append("data of its packets")
    if not hasattr(Statistics(SAMPLE_RATE), "_last_timestamp"):
        missing.append("timestamp of its statistics")
    worker = getattr(aiortc.rtcrtpreceiver, _WORKER, None)
    if not callable(worker) or list(inspect.signature(worker).parameters) != _WORKER_PARAMETERS:
        missing.append(f"{_WORKER}({', '.join(_WORKER_PARAMETERS)})")
    if not fits(missing, "our jitter buffer", "it keeps its own"):
        return None
    reception = Reception(receiver)
    setattr(receiver, _PRIVATE + "jitter_buffer", reception)
    setattr(receiver, _PRIVATE + "decoder_queue", reception.decoder_queue)
    receiver.track._queue = reception.frames  # type: ignore[attr-defined]
    aiortc.rtcrtpreceiver.time = SteadyTime  # type: ignore[attr-defined,assignment]
    aiortc.rtcrtpreceiver.StreamStatistics = Statistics  # type: ignore[misc]
    return reception
