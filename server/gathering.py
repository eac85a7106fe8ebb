"""How long a batch waits for packets that are about to come. No threads, no clock of its own.

A batch costs nearly the same for one call as for a few, and calls that send every 20 ms rarely send at the same time:
left alone, the engine would compute most packets by themselves. So the busier it is, the longer a packet waits for
others that are due before its patience ends; where none is, and while the engine has time to spare, it does not wait.
"""

import math
from typing import Final

from .overload import BOUND

LONGEST: Final = 0.4 * BOUND  # s of waiting: the rest of the bound is for the batch
SPARE: Final = 0.3  # share of the time that batches take, up to which no packet waits,
BUSY: Final = 0.5  # and from which on they wait longest
MEMORY: Final = 1.0  # s over which the share is taken


class Gathering:
    """Fed with the times of batches; says how long the next may wait for its packets."""

    def __init__(self) -> None:
        self._share = 0.0
        self._ended: float | None = None

    def note(self, began: float, ended: float) -> None:
        """Take the begin and the end (s) of a batch."""
        if self._ended is not None and ended > self._ended:
            span = ended - self._ended
            kept = math.exp(-span / MEMORY)
            self._share = kept * self._share + (1 - kept) * (ended - began) / span
        self._ended = ended

    @property
    def patience(self) -> float:
        """s that the oldest packet of a batch may have waited when the batch begins, if others are still to come."""
        return LONGEST * min(1.0, max(0.0, (self._share - SPARE) / (BUSY - SPARE)))
