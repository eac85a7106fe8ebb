"""The 70 numbers per hop that the network sees: 34 band levels, 34 coherences, period and pitch correlation."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from percepnet.bands import BANDS, WIDTHS
from percepnet.framing import Float
from percepnet.pitch import MAX_PERIOD, MIN_PERIOD

FEATURES: Final = 2 * BANDS + 2

FLOOR: Final = np.float32(1e-9)  # energy per bin of a frame at about −110 dBFS
ATTACK: Final = np.float32(0.1)  # per hop: the reference follows a louder signal within 100 ms,
RELEASE: Final = np.float32(0.003)  # and a quieter one within 3 s
# 15 dB, the most that it is behind; else the first word of a call fills all bands
BEHIND: Final = np.float32(1.5)
SPEECH_BANDS: Final = slice(2, 28)  # 200 Hz … 11 kHz carry the level reference: no hum, no DC

_COUNT: Final = np.float32(SPEECH_BANDS.stop - SPEECH_BANDS.start)
# −1.5 … 1.5 octaves at each period that is allowed
OCTAVE: Final = np.log2(np.maximum(np.arange(MAX_PERIOD + 1), 1) / np.sqrt(MIN_PERIOD * MAX_PERIOD)).astype(
    np.float32
)


def features(
    energy: Float, coherence: Float, period: NDArray[np.int64], correlation: Float, reference: Float
) -> Float:
    """Network input ``[streams, hops, FEATURES]``.

    energy: ‖Y_b‖² ``[streams, hops, BANDS]`` of the newest frames; coherence: q_b of the frames the pitch is for, same
    shape; period, correlation: ``[streams, hops]``; reference: running level ``[streams]`` in units of 10 dB, NaN
    at first, updated in place. Levels are relative to it, so the gain of a microphone does not matter.
    """
    streams, hops, _ = energy.shape
    out = np.empty((streams, hops, FEATURES), np.float32)
    levels = out[..., :BANDS]
    np.log10(energy / WIDTHS + FLOOR, out=levels)
    loudness = np.log10(np.add.reduce(energy[..., SPEECH_BANDS], -1) / _COUNT + FLOOR)
    np.copyto(reference, loudness[:, 0], where=np.isnan(reference))
    for hop in range(hops):
        change = loudness[:, hop] - reference
        step = np.maximum(ATTACK * change, RELEASE * change)  # the attack where it rises
        reference += np.maximum(step, change - BEHIND)
        loudness[:, hop] = reference
    levels -= loudness[..., None]
    np.minimum(np.maximum(levels, -6, out=levels), 3, out=levels)
    levels *= np.float32(0.5)
    out[..., BANDS : 2 * BANDS] = coherence
    out[..., -2] = OCTAVE[period]
    out[..., -1] = correlation
    return out
