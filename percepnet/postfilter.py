"""Envelope post-filter: deepens the valleys between strong bands and gives the level back.

Source: P20 section 4, after Ma and Leijon's post-filter for speech codecs.
"""

from typing import Final

import numpy as np

from percepnet.framing import Float

BETA: Final = np.float32(0.02)  # bounds the level given back, √((1+β)/(2√β)), to 5.6 dB


def envelope_postfilter(gain: Float, amplitude: Float) -> Float:
    """Warp band gains ``[…, BANDS]`` in [0, 1], given the amplitudes ‖Y_b‖ that they act on; same shape."""
    warped = gain * np.sin(np.float32(np.pi / 2) * gain)
    before = np.add.reduce(np.square(gain * amplitude), -1, keepdims=True)
    after = np.add.reduce(np.square(warped * amplitude), -1, keepdims=True)
    ratio = before / np.maximum(after, np.float32(1e-20))  # x = E0/E1 ≥ 1
    ratio = np.minimum(np.maximum(ratio, 1), np.float32(1e6))
    return warped * np.sqrt((1 + BETA) * ratio / (1 + BETA * ratio * ratio))
