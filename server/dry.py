"""What a call gets where there is no enhanced audio: its own, as late as the enhanced would be."""

import numpy as np

from percepnet.framing import Float

from .frames import PACKET


class DryLine:
    """Delays the packets of a call, ``[960]`` each, by ``latency`` samples.

    ``last`` is the last sample that came out, ``before`` the last one of the packet before.
    """

    def __init__(self, latency: int) -> None:
        self.before = self.last = 0.0
        self._kept = np.zeros(latency, np.float32)

    def push(self, samples: Float) -> Float:
        """The next packet in, the delayed one out."""
        joined = np.concatenate([self._kept, samples])
        self._kept = joined[PACKET:]
        self.before, self.last = self.last, float(joined[PACKET - 1])
        return joined[:PACKET]
