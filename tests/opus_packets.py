"""Opus packets of a recording."""

from fractions import Fraction

import numpy as np
from av import AudioFrame

from percepnet.framing import Float
from server.media.opus import OpusEncoder, OpusOptions

PACKET = 960  # samples, 20 ms


def packets(pcm: Float, *, bitrate: int = 32_000, fec: bool = False) -> list[bytes]:
    """One for each 20 ms of ``pcm``, mono at 48 kHz."""
    encoder, result = OpusEncoder(OpusOptions(bitrate=bitrate, fec=fec)), []
    for start in range(0, len(pcm) - PACKET + 1, PACKET):
        samples = (pcm[start : start + PACKET] * 32767).astype(np.int16)
        frame = AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), start
        result += encoder.encode(frame, 0)[0]
    return result
