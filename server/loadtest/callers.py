"""The callers of one process, and the process: it is told when to begin and to stop, and tells how it goes."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random
from typing import Any, Final, TypeVar

import aiohttp

from server.access import headers
from server.waiting import happens

from .call import CONNECT_TIME, MeasuredCall
from .options import Load
from .speech import Speech

COMES_BACK: Final = 0.5  # s on average until a caller that has hung up calls again
RETRY_TIME: Final = 1.0  # s until a caller that was refused tries again where the server did not say
NEWS_INTERVAL: Final = 0.5  # s
ANSWER_TIME: Final = aiohttp.ClientTimeout(total=CONNECT_TIME)  # of HTTP
READY: Final = "ready"  # what a process of callers says
ENDED: Final = "ended"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class News:
    """How it goes."""

    live: int  # calls that hear something
    ended: int
    refused: int
    failed: int  # or broken

    def __add__(self, other: "News") -> "News":
        return News(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


class Callers:
    """Callers ``numbers`` of ``load``."""

    def __init__(self, load: Load, speech: Speech, numbers: range) -> None:
        self.calls: list[MeasuredCall] = []
        self._load = load
        self._speech = speech
        self._numbers = numbers
        self._stopped = asyncio.Event()

    async def run(self, begin: float) -> None:
        """All their calls; the first caller of all begins at ``begin``, s of ``time.monotonic()``."""
        connector = aiohttp.TCPConnector(limit=0)
        token = headers(self._load.token)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=ANSWER_TIME, headers=token) as http,
            asyncio.TaskGroup() as group,
        ):
            for caller in self._numbers:
                group.create_task(self._live(http, caller, begin))

    def stop(self) -> None:
        """All hang up, and nobody calls again."""
        self._stopped.set()
        for call in self.calls:
            call.hang_up()

    def news(self) -> News:
        outcomes = [call.outcome for call in self.calls if call.over]
        return News(
            live=sum(call.live for call in self.calls),
            ended=outcomes.count("ok"),
            refused=outcomes.count("refused"),
            failed=outcomes.count("failed") + outcomes.count("broken"),
        )

    async def _live(self, http: aiohttp.ClientSession, caller: int, begin: float) -> None:
        load, chance = self._load, Random(f"{self._load.seed} {caller}")
        end = begin + load.ramp_time + load.seconds
        pause = begin + caller / load.ramp - time.monotonic()
        number = 0
        while not await happens(self._stopped, pause):
            seconds = load.seconds if load.repeat else end - time.monotonic()
            if seconds <= 0 or number == load.repeat:
                break
            if load.churn:
                seconds = min(seconds, load.churn * chance.uniform(0.5, 1.5))
            call = MeasuredCall(load, self._speech, caller, number)
            self.calls.append(call)
            await call.run(http, seconds)
            number += 1
            if call.refusal is not None and call.outcome == "refused":
                if not load.retry:
                    break
                pause = call.refusal.retry_after or RETRY_TIME
            elif load.churn:
                pause = COMES_BACK * chance.uniform(0, 2)
            elif load.repeat:
                pause = 0.0
            else:
                break


def process(pipe: Connection, load: Load, speech: Speech, number: int) -> None:
    """The main function of caller process ``number``.

    Sends READY and takes the time to begin; sends :class:`News` meanwhile, ENDED when all have hung up, and at
    last a list of :class:`CallResult`. Anything that comes later means to stop; so does the end of the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which tells us to stop
    with contextlib.suppress(EOFError, BrokenPipeError):
        pipe.send(READY)
        callers = run_quickly(_traffic(pipe, load, speech, number, pipe.recv()))
        tell(pipe, ENDED)
        tell(pipe, [call.result() for call in callers.calls])


def tell(pipe: Connection, message: object) -> None:
    """Send what is longer than the pipe, too, though an event loop that listened to it has left it non-blocking."""
    os.set_blocking(pipe.fileno(), True)
    pipe.send(message)


async def _traffic(pipe: Connection, load: Load, speech: Speech, number: int, begin: float) -> Callers:
    loop = asyncio.get_running_loop()
    callers = Callers(load, speech, load.mine(number))

    def told() -> None:
        loop.remove_reader(pipe.fileno())
        callers.stop()

    loop.add_reader(pipe.fileno(), told)
    talking = asyncio.create_task(callers.run(begin))
    while not (await asyncio.wait([talking], timeout=NEWS_INTERVAL))[0]:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(callers.news())
    loop.remove_reader(pipe.fileno())
    await talking
    pipe.send(callers.news())
    return callers


def run_quickly(main: Coroutine[Any, Any, Result]) -> Result:
    """In uvloop where it is installed: callers then cost less, and stand less in the way of the server."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(main)
    return uvloop.run(main)
