"""What callers say: a recording, encoded once for all of them, and what is heard of packets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import av
import numpy as np
from numpy.typing import NDArray

from percepnet.framing import SAMPLE_RATE, Pcm
from server.frames import PACKET, TIME_BASE

BIT_RATE: Final = 48_000  # bit/s, of a mono voice


@dataclass(frozen=True, slots=True)
class Speech:
    """A loop of speech: mono samples, and the Opus packets that hold them, 20 ms each."""

    pcm: Pcm
    payloads: tuple[bytes, ...]

    @classmethod
    def of(cls, pcm: Pcm) -> Self:
        """Encode ``pcm``; what is left after the last whole packet is cut off.

        Every packet is there, also of silence (no DTX), and the loop is encoded twice, of which the second
        time is kept: its first packet follows its last without a seam in the state of the codec.
        """
        count = len(pcm) // PACKET
        if not count:
            raise ValueError(f"speech must have at least {PACKET} samples, not {len(pcm)}")
        pcm = pcm[: count * PACKET]
        encoder = av.CodecContext.create("libopus", "w")
        encoder.bit_rate = BIT_RATE
        encoder.format = "s16"
        encoder.layout = "mono"
        encoder.sample_rate = SAMPLE_RATE
        encoder.time_base = TIME_BASE
        encoder.options = {"application": "voip", "dtx": "0"}
        payloads = []
        for number, samples in enumerate(np.tile(pcm, 2).reshape(-1, PACKET)):
            frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, TIME_BASE, number * PACKET
            payloads += [bytes(packet) for packet in encoder.encode(frame)]
        return cls(pcm, tuple(payloads[-count:]))

    def said(self, first: int, start: int, samples: int) -> Pcm:
        """``samples`` of what a caller says who begins with packet ``first``, from its sample ``start`` on.

        ``start`` may be negative: the loop before the beginning.
        """
        start += first * PACKET
        return self.pcm.take(range(start, start + samples), mode="wrap")


def decode(payloads: Mapping[int, bytes], samples: int) -> tuple[Pcm, NDArray[np.bool_]]:
    """The first ``samples`` of what Opus packets hold, by the time of each, and which of them are known.

    The others are 0.
    """
    decoder = av.CodecContext.create("libopus", "r")
    decoder.format = "s16"
    decoder.layout = "mono"
    decoder.sample_rate = SAMPLE_RATE
    heard, known = np.zeros(samples, np.int16), np.zeros(samples, np.bool_)
    for at in sorted(payloads):
        if not payloads[at] or not 0 <= at < samples:
            continue
        for frame in decoder.decode(av.Packet(payloads[at])):
            part = _mono(frame)[: samples - at]
            heard[at : at + len(part)] = part
            known[at : at + len(part)] = True
    return heard, known


def _mono(frame: av.AudioFrame) -> Pcm:
    return np.asarray(frame.to_ndarray(), np.int16).reshape(frame.samples, -1)[:, 0]
