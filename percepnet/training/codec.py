"""What callers' codecs do to a voice in noise before it reaches a server: Opus, as browsers send it."""

from fractions import Fraction
from typing import Final

import av
import numpy as np

from percepnet.framing import FULL_SCALE, SAMPLE_RATE, Float

RATES: Final = (12_000, 48_000)  # bit/s of one voice: from a poor line to what browsers send at the most
_LATE: Final = 312  # samples, that libopus's encoder looks ahead at this rate


def through_opus(samples: Float, rate: int) -> Float:
    """``samples [n]``, within ±1, as they are after Opus at ``rate`` bit/s, on time: ``[n]``."""
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE, "mono", "s16"
    encoder.bit_rate = rate
    encoder.options = {"application": "voip"}
    decoder = av.AudioCodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = SAMPLE_RATE, "mono"
    encoder.open()
    whole = np.pad(samples, (0, _LATE))
    frame = av.AudioFrame.from_ndarray(
        np.clip(whole * FULL_SCALE, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)[None], "s16", "mono"
    )
    frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    heard = np.concatenate([part.to_ndarray()[0] for packet in packets for part in decoder.decode(packet)])
    return (heard[_LATE : _LATE + len(samples)] / FULL_SCALE).astype(np.float32)
