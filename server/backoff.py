"""Pauses between attempts: each twice the last, up to a limit, and shortened by chance so that many do not meet."""

import asyncio
import random
import time
from typing import Final

SHORTEST: Final = 0.5  # s
LONGEST: Final = 30.0  # s
# s that an attempt has to last for the next pause to be short again; none takes that long to fail
STEADY: Final = 60.0


class Backoff:
    """Made as the first attempt begins."""

    def __init__(self) -> None:
        self._failures = 0
        self._began = time.monotonic()

    def next(self) -> float:
        """The pause (s) to make now that an attempt has failed: half to all of what is due."""
        if time.monotonic() - self._began >= STEADY:
            self._failures = 0
        due = min(LONGEST, SHORTEST * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return due * random.uniform(0.5, 1)

    async def pause(self) -> None:
        await asyncio.sleep(self.next())
        self._began = time.monotonic()
