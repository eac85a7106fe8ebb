"""A real server on a free port, and what tests ask of calls to it."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import aiohttp
import numpy as np
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection
from caller import Caller
from numpy.typing import NDArray

from percepnet.framing import Pcm
from server import engine
from server.api import CALLS
from server.app import create_app
from server.calls import Calls
from server.config import Config
from server.overload import Overload
from server.waiting import cancelled

TIMEOUT = 20.0  # s, far above what anything takes
START = 120.0  # s, and what a process takes to start
PACKET = 960


class Server:
    def __init__(self, url: str, calls: Calls, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.calls = calls
        self.http = http


@asynccontextmanager
async def serving(standstill: float = TIMEOUT, **options: object) -> AsyncIterator[Server]:
    """A server of ``options``, whose engine stands still after ``standstill`` s.

    A busy machine would turn calls dry, drop packets and refuse others; what is for that has tests of its own.
    """
    config = replace(Config(port=0, max_calls=8, rated_calls=1024, queue_packets=250), **options)  # type: ignore[arg-type]
    app = create_app(config)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    with patch.object(Overload, "note", return_value=0), patch.object(engine, "STANDSTILL", standstill):
        await runner.setup()
        try:
            site = web.TCPSite(runner, config.host, config.port)
            await site.start()
            url = f"http://{config.host}:{runner.addresses[0][1]}"
            async with aiohttp.ClientSession(url) as http:
                yield Server(url, app[CALLS], http)
        finally:
            await runner.cleanup()


@asynccontextmanager
async def at_work(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """``work`` as a task inside; cancelled and ended after."""
    running = asyncio.create_task(work)
    try:
        yield
    finally:
        await cancelled(running)


async def offered() -> dict[str, str]:
    """An offer whose caller never connects."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTransceiver("audio")
    await connection.setLocalDescription(await connection.createOffer())
    sdp = connection.localDescription.sdp
    await connection.close()
    return {"sdp": sdp, "type": "offer"}


async def until(condition: Callable[[], bool], what: str, within: float = TIMEOUT) -> None:
    """Wait for something that announces itself in no other way."""
    try:
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 — nothing to await
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


async def packets(caller: Caller, count: int) -> None:
    """Wait until so many more packets have come back."""
    wanted = len(caller.frames) + count
    await until(lambda: len(caller.frames) >= wanted, f"{count} more packets")


def level_db(pcm: Pcm) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm / 32768)) + 1e-12))


def unlikeness_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean difference of two aligned signals in 20 bands of 200 Hz to 4 kHz, every 10 ms, apart from their level.

    Opus changes phases, so waveforms cannot be compared; through it twice, speech is 1 to 2 dB unlike itself.
    """
    difference = _bands_db(a) - _bands_db(b)
    return float(np.abs(difference - np.median(difference)).mean())


def _bands_db(pcm: NDArray[Any]) -> NDArray[np.float64]:
    frames = np.lib.stride_tricks.sliding_window_view(pcm.astype(float), PACKET)[:: PACKET // 2]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(PACKET))))[:, 4:84]  # bins of 50 Hz
    bands = power.reshape(len(power), 20, 4).sum(2)
    decibels: NDArray[np.float64] = 10 * np.log10(bands + 1e-9 * bands.max() + 1e-9)
    return decibels


def holdings() -> dict[str, int]:
    """What a call that is not freed would leave behind."""
    gc.collect()
    return {
        "file descriptors": len(os.listdir("/proc/self/fd")),
        "threads": sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate()),
        "tasks": len(asyncio.all_tasks()),
        "connections": sum(isinstance(thing, RTCPeerConnection) for thing in gc.get_objects()),
        "LiveKit's things": sum(
            type(thing).__name__ == "FfiHandle" and not thing.disposed for thing in gc.get_objects()
        ),
    }


async def given_back(before: dict[str, int]) -> None:
    """Wait until no more is held than before."""
    try:
        async with asyncio.timeout(TIMEOUT):
            while any((now := holdings())[name] > before[name] for name in before):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    except TimeoutError:
        tasks = [str(task.get_coro()) for task in asyncio.all_tasks()]
        raise AssertionError(f"held: {now}, before: {before}, tasks: {tasks}") from None
