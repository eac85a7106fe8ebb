"""Whether a worker's event loop still turns: it says so every second, and who says nothing for long has hung."""

import asyncio
from typing import Final

BEAT: Final = 1.0  # s
PATIENCE: Final = 30  # beats that may be missing in a row; a machine that is short of everything skips a few
SILENT: Final = 3  # beats that are missing where something may be wrong


class Heartbeat:
    """What its parent hears of a worker."""

    def __init__(self, patience: int = PATIENCE) -> None:
        self.patience = patience
        self.missing = 0  # beats in a row, while somebody waits for it to stop
        self._heard = 0

    def hear(self) -> None:
        """Something has come."""
        self._heard += 1
        self.missing = 0

    async def stopped(self) -> None:
        """Wait until nothing has come for ``patience`` beats.

        These are counted one by one: when it was this process that stood still, or the whole machine, all that has
        come meanwhile is heard before the second beat is missing.
        """
        heard = self._heard
        while self.missing < self.patience:
            await asyncio.sleep(BEAT)
            self.missing = self.missing + 1 if self._heard == heard else 0
            heard = self._heard
