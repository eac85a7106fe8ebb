"""So many log lines that an attacker can provoke, and no more: the disk must not fill."""

import logging
import time
from collections.abc import Callable
from typing import Final

from .allowance import Allowance

PER_SECOND: Final = 1.0  # lines of one place in the code in the long run
BURST: Final = 20.0  # of them at once


class LogLimit(logging.Filter):
    """Lets so many lines of each place in the code pass; the next one that passes tells how many did not.

    Places are few, so the memory is bounded, whatever the lines say.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], tuple[Allowance, int]] = {}  # and how many were suppressed

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        place = (record.pathname, record.lineno)
        allowance, suppressed = self._places.get(place) or (
            Allowance(PER_SECOND, BURST / PER_SECOND, now),
            0,
        )
        passes = allowance.take(now)
        if passes and suppressed:
            record.msg = f"{record.getMessage()} (and {suppressed} more from here)"
            record.args = None
        self._places[place] = allowance, 0 if passes else suppressed + 1
        return passes
