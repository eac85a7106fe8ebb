"""How much of something may come: a token bucket, for datagrams, offers, answers and log lines alike."""

import time
from typing import Final

BURST: Final = 2.0  # s worth of it that may come at once, such as after the network stood still


class Allowance:
    """``rate`` a second in the long run, and at once ``burst`` s worth of it, but one at least; full at ``now``."""

    def __init__(self, rate: float, burst: float = BURST, now: float | None = None) -> None:
        self._rate = rate
        self._left = self._most = max(1.0, burst * rate)
        self._then = time.monotonic() if now is None else now

    def has(self, now: float) -> bool:
        """Whether there is one."""
        self._left = min(self._most, self._left + (now - self._then) * self._rate)
        self._then = now
        return self._left >= 1

    def take(self, now: float, amount: float = 1.0) -> bool:
        """Whether there is one; ``amount`` is then gone, on credit if it is more than there was."""
        if not self.has(now):
            return False
        self._left -= amount
        return True

    @property
    def wait(self) -> float:
        """s from the last :meth:`take` until there is one."""
        return max(0.0, (1 - self._left) / self._rate)
