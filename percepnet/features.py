"""The 70 numbers per hop that the network sees: 34 band levels, 34 coherences, period and pitch correlation."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from percepnet.bands import BANDS, WIDTHS
from percepnet.framing import Float
from percepnet.pitch import MAX_PERIOD, MIN_PERIOD

FEATURES: Final = 2 * BANDS + 2

_FLOOR: Final = np.float32(1e-9)  # energy per bin of a frame at about −110 dBFS
_ATTACK: Final = np.float32(0.1)  # per hop: the reference follows a louder signal within 100 ms,
_RELEASE: Final = np.float32(0.003)  # and a quieter one within 3 s
_SPEECH_BANDS: Final = slice(2, 28)  # 200 Hz … 11 kHz carry the level reference: no hum, no DC


def new_reference(streams: int) -> Float:
    """Level references ``[streams]`` of streams that have not begun."""
    return np.full(streams, np.nan, np.float32)


def features(
    energy: Float, coherence: Float, period: NDArray[np.int64], correlation: Float, reference: Float
) -> Float:
    """Network input ``[streams, hops, FEATURES]``.

    energy: ‖Y_b‖² ``[streams, hops, BANDS]`` of the newest frames; coherence: q_b of the frames the pitch is for, same
    shape; period, correlation: ``[streams, hops]``; reference: running level ``[streams]`` in units of 10 dB, updated
    in place. Levels are relative to it, so the gain of a microphone does not matter.
    """
    streams, hops, _ = energy.shape
    out = np.empty((streams, hops, FEATURES), np.float32)
    levels = out[..., :BANDS]
    np.log10(energy / WIDTHS + _FLOOR, out=levels)
    loudness = np.log10(energy[..., _SPEECH_BANDS].mean(-1) + _FLOOR)
    for hop in range(hops):
        now = loudness[:, hop]
        np.copyto(reference, now, where=np.isnan(reference))
        reference += np.where(now > reference, _ATTACK, _RELEASE) * (now - reference)
        levels[:, hop] -= reference[:, None]
    np.clip(levels, -6, 3, out=levels)
    levels *= np.float32(0.5)
    out[..., BANDS : 2 * BANDS] = coherence
    octave = np.log2(period / np.sqrt(MIN_PERIOD * MAX_PERIOD))  # −1.5 … 1.5
    out[..., -2] = octave
    out[..., -1] = correlation
    return out
