"""What a call gets where there is no enhanced audio: its own, as late as the enhanced would be."""

from typing import Final

import numpy as np

from percepnet.framing import Float

from .frames import PACKET

SEAM: Final = 240  # samples, 5 ms, over which a step at a packet's beginning is spread


class DryLine:
    """Delays the packets of a call, ``[960]`` each, by ``latency`` samples."""

    def __init__(self, latency: int) -> None:
        self._kept = np.zeros(latency, np.float32)

    def push(self, samples: Float) -> Float:
        """The next packet in, the delayed one out."""
        joined = np.concatenate([self._kept, samples])
        self._kept = joined[PACKET:]
        return joined[:PACKET]


def continued(samples: Float, last: float) -> Float:
    """``samples`` without a click where ``last`` is the sample before them, of other audio."""
    joined = samples.copy()
    joined[:SEAM] += (last - samples[0]) * np.linspace(1, 0, SEAM, dtype=np.float32)
    return joined
