"""A worker process and its parent, each as the other sees it.

They hold the ends of one socket pair, with a line of JSON for a message: a worker says that it is ready, every
second that it still is, whose call has begun or ended, or why it failed; the parent tells it
to drain or to hurry. Each learns of the other's death at once, however it came, because the kernel then closes the
pair.
"""

import asyncio
import contextlib
import json
import multiprocessing
import signal
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

import aiohttp

from percepnet.cli.processes import interrupts_blocked, one_thread_each

from .config import Config
from .ending import ENDING_TIME, Ending
from .heartbeat import BEAT, PATIENCE, SILENT, Heartbeat
from .logs import log_to_stderr
from .waiting import happens

ANSWER_TIME: Final = 15.0  # s that a worker has for a request; gathering may take 5, closing a call likewise
# s until a worker is ready; most take two, on a machine that is short of everything twenty
LONGEST_START: Final = 120.0

# What a worker does with its number, its options, the path to listen on and its end of the pair.
Target: TypeAlias = Callable[[int, Config, Path, socket.socket], None]


class Worker:
    """A process, started as this is made. :meth:`live` follows it to its end, and has to be called."""

    def __init__(
        self, number: int, config: Config, path: Path, target: Target, patience: int = PATIENCE
    ) -> None:
        self.number = number
        self.callers: Counter[str] = Counter()  # calls by the address of their callers, as it said last
        self.offers = 0  # that it is answering
        self.turn = 0  # when it was given its last offer
        self.ready = False
        self.failure = ""  # as it said itself
        self._heartbeat = Heartbeat(patience)
        self._ours, theirs = socket.socketpair()
        self._writer: asyncio.StreamWriter | None = None
        # spawn: a fork would copy the locks of onnxruntime's and BLAS's threads in whatever state they are
        self.process = multiprocessing.get_context("spawn").Process(
            target=_begin, args=(target, number, config, path, theirs), name=f"worker {number}"
        )
        try:
            with theirs, one_thread_each(), interrupts_blocked():
                self.process.start()
        except BaseException:
            self._ours.close()
            raise
        # A connection for each request: one that is kept could be closed by the worker just as it is used.
        self.http = aiohttp.ClientSession(
            "http://worker",
            connector=aiohttp.UnixConnector(str(path), limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(ANSWER_TIME),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=["Content-Type", "User-Agent"],
        )

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.process.pid})"

    @property
    def calls(self) -> int:
        return self.callers.total()

    @property
    def silent(self) -> bool:
        """Whether it may hang: it is spared what another can do."""
        return self._heartbeat.missing >= SILENT

    @property
    def end(self) -> str:
        """How it came to its end, for people."""
        code = self.process.exitcode
        return self.failure or (
            f"ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with status {code}"
        )

    def tell(self, order: Literal["drain", "hurry"]) -> None:
        """See :class:`Ending`."""
        if self._writer is not None:
            self._writer.write(json.dumps(order).encode() + b"\n")

    async def live(self, on_ready: Callable[[], None]) -> None:
        """Follow the process until it has ended; one that hangs is ended."""
        reader, self._writer = await asyncio.open_connection(sock=self._ours)
        ready = asyncio.Event()
        watching = asyncio.create_task(self._end_when_it_hangs(ready), name=f"watch of {self}")
        try:
            with contextlib.suppress(ConnectionError):
                async for line in reader:
                    self._heartbeat.hear()
                    match json.loads(line):
                        case {"caller": str(caller), "began": bool(began)}:
                            self._count(caller, began)
                        case {"failed": str(failure)}:
                            self.failure = failure
                        case {"ready": True}:
                            self.ready = True
                            ready.set()
                            on_ready()
        finally:
            self.ready = False
            watching.cancel()
            await asyncio.wait([watching])
            self._writer.close()
            await self.http.close()
            await asyncio.get_running_loop().run_in_executor(None, self._reap)

    async def _end_when_it_hangs(self, ready: asyncio.Event) -> None:
        if not await happens(ready, LONGEST_START):
            self.failure = f"was not ready after {LONGEST_START:g} s and was ended"
        else:
            await self._heartbeat.stopped()
            self.failure = f"has said nothing for {self._heartbeat.patience * BEAT:g} s and was ended"
        self.process.kill()

    def _count(self, caller: str, began: bool) -> None:
        self.callers[caller] += 1 if began else -1
        if not self.callers[caller]:
            del self.callers[caller]

    def _reap(self) -> None:
        # it has closed the pair, so it ends now unless a thread of it is stuck
        self.process.join(ENDING_TIME)
        self.process.kill()
        self.process.join()


class Parent:
    """The process that started this one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, channel: socket.socket) -> Self:
        return cls(*await asyncio.open_connection(sock=channel))

    def tell(self, **message: object) -> None:
        """``ready=True``, ``beat=True``, ``caller="192.0.2.1", began=True`` or ``failed="why"``."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def obey(self, ending: Ending) -> None:
        """Pass its orders on. When it is gone, there is nobody to work for."""
        with contextlib.suppress(ConnectionError):
            async for line in self._reader:
                if json.loads(line) == "drain":
                    ending.drain()
                else:
                    ending.hurry()
        ending.hurry()

    async def close(self) -> None:
        """Send what it has been told, and let it see that this is the end."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def _begin(target: Target, number: int, config: Config, path: Path, channel: socket.socket) -> None:
    # a terminal sends them to all; the parent decides what they mean
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log_to_stderr(config.log_level, number, config.log_format)
    try:
        target(number, config, path, channel)
    finally:
        parent = multiprocessing.parent_process()
        if parent is None or not parent.is_alive():  # nobody else is left to tidy up
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # by the last worker
