"""Whether a worker's event loop still turns: it says so every second, and who says nothing for long has hung."""

import asyncio
from typing import Final

BEAT: Final = 1.0  # s
PATIENCE: Final = 30  # beats that may be missing in a row; a machine that is short of everything skips a few


class Heartbeat:
    """What its parent hears of a worker."""

    def __init__(self, patience: int = PATIENCE) -> None:
        self.patience = patience
        self._heard = 0

    def hear(self) -> None:
        """Something has come."""
        self._heard += 1

    async def stopped(self) -> None:
        """Wait until nothing has come for ``patience`` beats.

        These are counted one by one: when it was this process that stood still, or the whole machine, all that has
        come meanwhile is heard before the second beat is missing.
        """
        heard, missing = self._heard, 0
        while missing < self.patience:
            await asyncio.sleep(BEAT)
            missing = missing + 1 if self._heard == heard else 0
            heard = self._heard
