"""The workers of a server: all started, each replaced when it dies, all drained. What they do is given to them."""

import asyncio
import itertools
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from .config import Config
from .ending import ENDING_TIME, Ending
from .heartbeat import PATIENCE
from .waiting import happens
from .worker import Target, Worker

STEADY_TIME: Final = 10.0  # s after which a worker that dies is replaced without a pause
FIRST_PAUSE: Final = 0.25  # s before one that died sooner is replaced; doubles each time
LONGEST_PAUSE: Final = 30.0  # s

logger = logging.getLogger(__name__)


class WorkerFailed(RuntimeError):
    """A worker did not start, or did not end as it should."""


class Workers:
    """``count`` processes that share ``max_calls``. An async context manager that leaves none behind."""

    def __init__(self, config: Config, count: int, target: Target, patience: int = PATIENCE) -> None:
        """``patience``: seconds that a worker may say nothing before it is taken to hang, and replaced."""
        self.count = count
        self._patience = patience
        self._config = config
        self._target = target
        self._folder = Path(tempfile.mkdtemp(prefix="percepnet-"))  # 0700: only this user reaches the workers
        self._workers: dict[int, Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = asyncio.Event()
        self._turns = itertools.count(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._ending.set()
        for worker in self._workers.values():
            worker.process.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def draining(self) -> bool:
        return self._ending.is_set()

    @property
    def live(self) -> list[Worker]:
        """Those that are ready."""
        return [worker for worker in self._workers.values() if worker.ready]

    def calls_of(self, caller: str) -> int:
        """Calls of an address, with all of them."""
        return sum(worker.callers[caller] for worker in self.live)

    def least_loaded(self, without: Collection[Worker]) -> Worker | None:
        """The one with the fewest calls; among equals, the one whose turn is longest ago; silent ones last."""
        chosen = min(
            (worker for worker in self.live if worker not in without),
            key=lambda worker: (worker.silent, worker.calls + worker.offers, worker.turn),
            default=None,
        )
        if chosen is not None:
            chosen.turn = next(self._turns)
        return chosen

    def home(self, room: str) -> Worker | None:
        """The one that has the calls of ``room``, if it is ready; it stays the same when that is replaced."""
        number = zlib.crc32(room.encode()) % self.count
        return next((worker for worker in self.live if worker.number == number), None)

    async def start(self) -> None:
        """Start all and wait until they are ready; raises :class:`WorkerFailed` if one does not start."""
        loop = asyncio.get_running_loop()
        ready: list[asyncio.Future[None]] = [loop.create_future() for _ in range(self.count)]
        self._tasks = [asyncio.create_task(self._keep(*args)) for args in enumerate(ready)]
        await asyncio.gather(*ready)

    async def drain(self, ending: Ending) -> None:
        """End all, as ``ending`` has it; raises :class:`WorkerFailed` if one did not end as it should."""
        self._ending.set()
        told = self.live
        for worker in self._workers.values():
            if worker in told:
                worker.tell("drain")
            else:
                worker.process.kill()  # it has no calls yet
        if not self._tasks:
            return
        await ending.grace(asyncio.wait(self._tasks))
        for worker in self.live:
            worker.tell("hurry")
        await asyncio.wait(self._tasks, timeout=ENDING_TIME)
        failed = [f"{worker} {worker.end}" for worker in told if worker.process.exitcode != 0]
        if failed:
            raise WorkerFailed(", ".join(failed))

    async def _keep(self, number: int, ready: asyncio.Future[None]) -> None:
        """Keep worker ``number`` alive until all end. ``ready`` is for the first of that number."""

        def on_ready() -> None:
            if not ready.done():
                ready.set_result(None)

        loop = asyncio.get_running_loop()
        pause = 0.0
        for generation in itertools.count():
            began = loop.time()
            end = await self._once(number, generation, on_ready)
            if self.draining:
                return
            if not ready.done():
                ready.set_exception(WorkerFailed(f"worker {number} does not start: {end}"))
                return
            pause = next_pause(pause, loop.time() - began)
            logger.warning("%s; the next one starts in %.2f s", end, pause)
            if await happens(self._ending, pause):
                return

    async def _once(self, number: int, generation: int, on_ready: Callable[[], None]) -> str:
        """One worker's life; returns how it ended."""
        share = self._config.max_calls // self.count + (number < self._config.max_calls % self.count)
        path = self._folder / f"{number}.{generation}"
        try:
            # Whoever comes through the front has been let in; workers have no use for tokens.
            config = replace(self._config, max_calls=share, tokens=(), token_file=None)
            worker = Worker(number, config, path, self._target, self._patience)
        except OSError as error:
            return f"worker {number}: {error}"
        self._workers[number] = worker
        await worker.live(on_ready)
        path.unlink(missing_ok=True)
        calls = f", and with it {worker.calls} calls" if worker.calls else ""
        return f"{worker} {worker.end}{calls}"


def next_pause(pause: float, lived: float) -> float:
    """Seconds before a worker is replaced that lived so long, after ``pause`` the time before."""
    return 0.0 if lived >= STEADY_TIME else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
