"""How a process that holds calls comes to its end, once it is told to."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Coroutine
from typing import Any, Final, Self

from .waiting import first

ENDING_TIME: Final = 10.0  # s that calls and threads have to end before the process ends without them

logger = logging.getLogger(__name__)


class Ending:
    """Told once, a process drains; told twice, it closes its calls at once; told three times, it is gone.

    aiortc's decoder threads are not daemons and would hold up the end of the process if one were stuck: a
    process that has not ended ``ending_time`` after its calls had to is gone too, with status 1. As a context
    manager around all that may hang.
    """

    def __init__(self, drain_time: float, ending_time: float = ENDING_TIME) -> None:
        self._drain_time = drain_time  # s
        self._ending_time = ending_time
        self._told = asyncio.Event()
        self._hurried = asyncio.Event()
        self._last_resort = threading.Timer(0, os._exit, [1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._last_resort.cancel()

    @property
    def is_told(self) -> bool:
        return self._told.is_set()

    def listen(self) -> None:
        """Let signals tell it: SIGINT, SIGTERM and, unless it is ignored as by nohup, SIGHUP.

        A terminal that closes may send that twice, so that one counts once.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._tell)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def drain(self) -> None:
        """No new calls; those at hand may end within ``drain_time``."""
        if not self._told.is_set():
            self._told.set()
            self._end_within(self._drain_time + self._ending_time)

    def hurry(self) -> None:
        """Close all calls now."""
        if not self._hurried.is_set():
            self._told.set()
            self._hurried.set()
            self._end_within(self._ending_time)

    async def told(self) -> None:
        """Wait until it is time to drain."""
        await self._told.wait()

    async def grace(self, ended: Coroutine[Any, Any, object]) -> None:
        """Wait for ``ended``, for ``drain_time`` at most and no longer once it has to hurry."""
        await first(ended, self._hurried.wait(), within=self._drain_time)

    def _tell(self) -> None:
        if self._hurried.is_set():
            os._exit(1)
        if self._told.is_set():
            logger.info("closing all calls")
            self.hurry()
        else:
            logger.info("ending: calls may go on for %g s, or until a second signal", self._drain_time)
            self.drain()

    def _hang_up(self) -> None:
        if not self.is_told:
            self._tell()

    def _end_within(self, seconds: float) -> None:
        self._last_resort.cancel()
        self._last_resort = threading.Timer(seconds, os._exit, [1])
        self._last_resort.daemon = True
        self._last_resort.start()
