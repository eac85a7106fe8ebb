"""Audio frames of any format ↔ packets of 960 mono samples on one timeline of 48 kHz."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal, TypeAlias

import numpy as np
from av import AudioFrame

from percepnet.concealment import SEAM, Concealer
from percepnet.framing import FULL_SCALE, HOP, LATENCY, SAMPLE_RATE, Float, Pcm, from_pcm, to_pcm
from percepnet.resampling import Filters

PACKET: Final = 2 * HOP  # samples, 20 ms
TIME_BASE: Final = Fraction(1, SAMPLE_RATE)
LONGEST_FILL: Final = 6 * PACKET  # 120 ms: longer gaps are not filled but skipped
CUT: Final = round(SEAM * SAMPLE_RATE)
LONGEST_BACKLOG: Final = 0.5  # s of audio that may wait: a burst passes, 3 s of the past do not
# packets a second of a caller in the long run, half as fast again as time; two seconds' at once
FASTEST: Final = 75.0
BACKLOG_PACKETS: Final = round(LONGEST_BACKLOG * SAMPLE_RATE) // PACKET
RESAMPLER_SETTLING: Final = 2 * SAMPLE_RATE // 1000  # samples in which both sides of a gap mix, at 8 kHz
ROUNDING: Final = 1  # sample: frames of some rates are no whole number of samples of 48 kHz long
LONGEST_GAP: Final = 60 * SAMPLE_RATE  # beyond this the sender has started a new timeline

Layout: TypeAlias = Literal["mono", "stereo"]


@dataclass(frozen=True, slots=True)
class Packet:
    time: int  # samples of 48 kHz at the first sample, in the sender's timeline
    samples: Float  # [960]
    # else its time has passed: it only ends what is under way, and its answer is not sent
    in_time: bool = True


def resampler(like: AudioFrame, format: str, layout: Layout, rate: int) -> Filters:
    """From frames like ``like`` to another format, as ``av.AudioResampler`` does it with threads."""
    source = {
        "sample_rate": str(like.sample_rate),
        "sample_fmt": like.format.name,
        "channel_layout": like.layout.name,
    }
    if like.time_base is not None:
        source["time_base"] = str(like.time_base)
    wanted = {"sample_rates": str(rate), "sample_fmts": format, "channel_layouts": layout}
    return Filters(source, ("aformat", wanted))


def same_format(a: AudioFrame, b: AudioFrame) -> bool:
    return (a.format.name, a.layout.name, a.sample_rate) == (b.format.name, b.layout.name, b.sample_rate)


def time_of(frame: AudioFrame) -> int | None:
    """Samples of 48 kHz at its first sample, in the sender's timeline."""
    base = frame.time_base  # PyAV makes a new one each time
    if frame.pts is None or base is None:
        return None
    if base.denominator == SAMPLE_RATE and base.numerator == 1:
        return frame.pts
    return round(frame.pts * Fraction(base) * SAMPLE_RATE)


def is_native(frame: AudioFrame) -> bool:
    """Packed s16 at 48 kHz in mono or stereo, which is what Opus decodes to: no resampler needed."""
    known = frame.format.name == "s16" and frame.layout.name in ("mono", "stereo")
    return known and frame.sample_rate == SAMPLE_RATE


def cut(dropped: Float, kept: Float) -> Float:
    """``kept`` beginning as the packet ``dropped`` before it did: what was heard before that goes on in it."""
    fall = np.linspace(1, 0, CUT, dtype=np.float32)
    head = kept[:CUT] + (dropped[:CUT] - kept[:CUT]) * fall
    return np.concatenate([head, kept[CUT:]])


class FrameReader:
    """Turns frames into packets: mixes to mono, resamples, re-blocks, and conceals gaps.

    A gap (lost packets) of up to ``LONGEST_FILL`` is filled, so that what follows is neither early nor late.
    At a longer one (a sender that pauses, a network that is gone) the timeline skips: just before the audio that
    resumes the last fades, which flushes what is under way but comes too late to be sent, and one packet of comfort
    noise follows, because libopus's wrapper in libavcodec stamps the first packet after a gap as if there were none.
    The fade is short, for the audio that resumes waits until the engine has computed all that is before it.
    """

    def __init__(self) -> None:
        self._format: AudioFrame | None = None  # any frame of the current format
        self._resampler: Filters | None = None
        self._primed = False
        self._concealer = Concealer(SAMPLE_RATE)
        self._pending = np.zeros(0, np.float32)
        self._time = 0  # of the first pending sample
        self._expected: int | None = None  # time of the next frame
        self._offset = 0  # from the sender's timeline to ours, when it has started a new one
        self._came: float | None = None  # when the last frame did

    def follows(self, frame: AudioFrame) -> bool:
        """Whether a frame goes on where the last has ended, in its format: nothing to conceal, nothing to begin."""
        if self._format is None or self._expected is None or not same_format(frame, self._format):
            return False
        time = time_of(frame)
        return time is None or abs(time + self._offset - self._expected) <= ROUNDING

    def push(self, frame: AudioFrame, came: float | None = None) -> list[Packet]:
        """Take a frame that came at ``came``, s of any clock; returns the packets that it completes."""
        packets = []
        if self._format is None or not same_format(frame, self._format):
            self._start(frame)
        time = self._place(frame, came)
        assert self._expected is not None
        gap = time - self._expected
        if ROUNDING < gap <= LONGEST_FILL:
            self._append(self._concealer.conceal(gap))
        elif gap > LONGEST_FILL:
            length = CUT + LATENCY  # none of it is left in the answer to the packet of comfort noise
            self._append(
                self._concealer.conceal(length + -(len(self._pending) + length) % PACKET, pause=True)
            )
            self._time = time - PACKET - len(self._pending)
            packets = [replace(packet, in_time=False) for packet in self._complete()]
            self._append(self._concealer.conceal(PACKET, pause=True))
        settling = 0 if self._resampler is None else RESAMPLER_SETTLING
        self._append(self._concealer.heard(self._samples(frame), settling))
        self._expected = time + frame.samples * SAMPLE_RATE // frame.sample_rate
        return packets + self._complete()

    def _start(self, frame: AudioFrame) -> None:
        self._format = frame
        self._resampler = None
        self._primed = True
        if not is_native(frame):
            self._resampler = resampler(frame, "flt", "mono", SAMPLE_RATE)
            self._primed = False

    def _place(self, frame: AudioFrame, came: float | None) -> int:
        """Time of a frame on our timeline, which never runs backwards."""
        last, self._came = self._came, came
        time = time_of(frame)
        if time is None:
            time = (self._expected or 0) - self._offset
        if self._expected is None:
            self._expected = self._time = time
        elif not 0 <= time + self._offset - self._expected <= LONGEST_GAP:
            waited = 0 if came is None or last is None else round((came - last) * SAMPLE_RATE)
            pause = max(0, waited - frame.samples * SAMPLE_RATE // frame.sample_rate)
            self._offset = self._expected + pause - time
        return time + self._offset

    def _samples(self, frame: AudioFrame) -> Float:
        """Of a frame, mono at 48 kHz."""
        if self._resampler is None:
            return _mono(frame)
        parts = [part.to_ndarray()[0] for part in self._resampler.push(frame)]
        samples = np.concatenate([np.zeros(0, np.float32), *parts])
        if not self._primed:
            # A resampler keeps back half its filter's length once. Silence in its place, so that a frame
            # in is a packet out, instead of a whole packet more of delay.
            self._primed = True
            whole = frame.samples * SAMPLE_RATE // frame.sample_rate
            samples = np.pad(samples, (max(0, whole - len(samples)), 0))
        return samples

    def _append(self, samples: Float) -> None:
        self._pending = np.concatenate([self._pending, samples]) if self._pending.size else samples

    def _complete(self) -> list[Packet]:
        count = len(self._pending) // PACKET
        packets = [
            Packet(self._time + i * PACKET, self._pending[i * PACKET : (i + 1) * PACKET])
            for i in range(count)
        ]
        self._pending = self._pending[count * PACKET :]
        self._time += count * PACKET
        return packets


class FrameWriter:
    """Turns packets back into frames of the sample rate, time base and mono or stereo layout of ``like``.

    The sample format is always packed s16, the one that aiortc's encoders take; ``layout`` and ``rate`` override those
    of ``like``.
    """

    def __init__(self, like: AudioFrame, layout: Layout | None = None, rate: int | None = None) -> None:
        self._rate = rate or like.sample_rate
        self._layout = layout or ("mono" if like.layout.name == "mono" else "stereo")
        self._time_base = Fraction(like.time_base) if like.time_base else Fraction(1, self._rate)
        self._same_time_base = self._time_base == TIME_BASE
        self._resampler: Filters | None = None
        self._kept = np.zeros((1, 0), np.int16)  # resampled, interleaved

    def frame(self, packet: Packet) -> AudioFrame:
        pcm = to_pcm(packet.samples)
        if self._rate != SAMPLE_RATE:
            return self._resampled(packet.time, pcm)
        return self._stamped(packet.time, pcm.repeat(2) if self._layout == "stereo" else pcm)

    def _resampled(self, time: int, pcm: Pcm) -> AudioFrame:
        frame = AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        if self._resampler is None:
            self._resampler = resampler(frame, "s16", self._layout, self._rate)
        parts = [part.to_ndarray() for part in self._resampler.push(frame)]
        self._kept = np.concatenate([self._kept, *parts], axis=1)
        # Rates that do not divide 20 ms get frames of changing length, with the same sum.
        channels = 1 if self._layout == "mono" else 2
        ends = [(time + edge) * self._rate // SAMPLE_RATE for edge in (0, PACKET)]
        count = (ends[1] - ends[0]) * channels
        missing = max(0, count - self._kept.shape[1])  # once: see FrameReader
        self._kept = np.pad(self._kept, ((0, 0), (missing, 0)))
        ready, self._kept = self._kept[0, :count], self._kept[:, count:]
        return self._stamped(time, ready)

    def _stamped(self, time: int, pcm: Pcm) -> AudioFrame:
        """A frame of interleaved ``pcm``."""
        channels = 1 if self._layout == "mono" else 2
        frame = AudioFrame(format="s16", layout=self._layout, samples=len(pcm) // channels)
        frame.planes[0].update(pcm.tobytes())  # half the time of from_ndarray()
        frame.sample_rate = self._rate
        frame.time_base = self._time_base
        frame.pts = time if self._same_time_base else round(Fraction(time, SAMPLE_RATE) / self._time_base)
        return frame


def _mono(frame: AudioFrame) -> Float:
    channels = frame.layout.nb_channels
    plane = memoryview(frame.planes[0])  # longer than the samples in it; a fifth of the time of to_ndarray()
    pcm = np.frombuffer(plane, np.int16, frame.samples * channels).reshape(-1, channels)
    if channels == 1:
        return from_pcm(pcm[:, 0])
    mono: Float = (pcm[:, 0].astype(np.float32) + pcm[:, 1]) * np.float32(0.5 / FULL_SCALE)
    return mono
