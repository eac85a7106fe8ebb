"""Run a load: start the processes of the callers, look at the server meanwhile, collect what they found."""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final, Self

from .call import CallResult
from .callers import ENDED, News, process
from .options import Load
from .speech import Speech
from .watch import Sample, Watch, from_proc

SAMPLING: Final = 1.0  # s between two looks at the server
START_TIME: Final = 60.0  # s that a process of callers may take to load
ENDING_TIME: Final = 5.0  # s that it may take to end once it has told everything
BEGIN_AFTER: Final = 0.2  # s from all being ready to the first call
RECOVERY_TIME: Final = 15.0  # s that a server has, once all calls have ended, to be as it was before
NOTHING: Final = News(0, 0, 0, 0)

Progress = Callable[[float, News], None]  # s since the begin, and how it goes


@dataclass(slots=True)
class Run:
    """All that was seen of a load. Times are s of ``time.monotonic()``."""

    load: Load
    begin: float = 0.0  # the first call was due
    end: float = 0.0  # all had hung up
    interrupted: bool = False
    before: Sample | None = None  # the server, ere the first call
    samples: list[Sample] = field(default_factory=list)  # the server, once a second
    callers: list[Sample] = field(default_factory=list)  # their processes, once a second
    news: list[tuple[float, News]] = field(default_factory=list)  # of all callers, once a second
    calls: list[CallResult] = field(default_factory=list)
    after: Sample | None = None  # the server, when it was as before or had no more time for that
    recovery_s: float | None = None  # from the end until it was as before; None where it was not


def run(load: Load, speech: Speech, watch: Watch | None, progress: Progress) -> Run:
    """Run ``load`` to its end, or until Ctrl-C, which ends all calls; what was seen until then is returned."""
    found = Run(load, before=watch() if watch else None)
    with _Crowd(load, speech) as crowd, _interruption(crowd.stop) as interrupted:
        found.begin = time.monotonic() + BEGIN_AFTER
        crowd.begin(found.begin)
        due = found.begin
        while crowd.waiting:
            found.calls += crowd.take(due - time.monotonic())
            if crowd.talking and time.monotonic() >= due:
                due = time.monotonic() + SAMPLING
                _look(found, crowd, watch)
                progress(time.monotonic() - found.begin, crowd.news())
            elif not crowd.talking and not found.end:
                found.end = time.monotonic()
                found.news.append((found.end, crowd.news()))
                if watch and found.before:
                    _recover(found, watch)
        found.interrupted = interrupted.is_set()
    found.calls.sort(key=lambda call: call.began)
    return found


class _Crowd:
    """The processes of the callers; ready to begin inside, gone outside."""

    def __init__(self, load: Load, speech: Speech) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy whatever threads hold
        self.processes: list[BaseProcess] = []
        self.waiting: set[Connection] = set()  # those whose results have not come
        self.talking: set[Connection] = set()  # those whose callers have not all hung up
        self._news: dict[Connection, News] = {}
        for number in range(min(load.processes, load.calls)):
            ours, theirs = context.Pipe()
            child = context.Process(target=process, args=(theirs, load, speech, number), daemon=True)
            self.processes.append(child)
            self.waiting.add(ours)
            child.start()
            theirs.close()
        self.talking |= self.waiting

    def __enter__(self) -> Self:
        try:
            for pipe in self.waiting:
                if not pipe.poll(START_TIME):
                    raise RuntimeError(f"a process of callers was not ready within {START_TIME:g} s")
                self._receive(pipe)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def begin(self, at: float) -> None:
        for pipe in self.waiting:
            pipe.send(at)

    def stop(self) -> None:
        """All hang up; their results come as always."""
        for pipe in self.talking:
            with contextlib.suppress(BrokenPipeError):
                pipe.send("stop")

    def take(self, seconds: float) -> list[CallResult]:
        """Wait for so long for what processes tell, and return the results among it."""
        results: list[CallResult] = []
        for pipe in wait(list(self.waiting), timeout=max(0.0, seconds)):
            assert isinstance(pipe, Connection)
            message = self._receive(pipe)
            if isinstance(message, News):
                self._news[pipe] = message
            elif message == ENDED:
                self.talking.discard(pipe)
            elif isinstance(message, list):
                self.waiting.discard(pipe)
                results += message
        return results

    def news(self) -> News:
        return sum(self._news.values(), NOTHING)

    def _receive(self, pipe: Connection) -> object:
        try:
            return pipe.recv()
        except EOFError:
            raise RuntimeError("a process of callers has died") from None

    def _end(self) -> None:
        for child in self.processes:
            child.join(0 if self.waiting else ENDING_TIME)
            child.terminate()
            child.join()


def _look(found: Run, crowd: _Crowd, watch: Watch | None) -> None:
    """Note the server, the processes of the callers, and how it goes."""
    if watch and (sample := watch()):
        found.samples.append(sample)
    if sample := from_proc([child.pid for child in crowd.processes if child.pid is not None]):
        found.callers.append(sample)
    found.news.append((time.monotonic(), crowd.news()))


def _recover(found: Run, watch: Watch) -> None:
    """Wait until the server has no more calls than before and sheds none; or no more files, if that is all we see."""
    assert found.before is not None
    while True:
        sample = watch()
        now = time.monotonic()
        if sample is not None:
            found.after = sample
            seen, then = sample.fds, found.before.fds
            if sample.calls is not None and found.before.calls is not None:
                seen, then = sample.calls, found.before.calls
            if seen <= then and not sample.shed:
                found.recovery_s = now - found.end
                return
        if now > found.end + RECOVERY_TIME:
            return
        time.sleep(0.1)


@contextlib.contextmanager
def _interruption(stop: Callable[[], None]) -> Iterator[threading.Event]:
    """Ctrl-C calls ``stop`` and sets the event; a second one is a KeyboardInterrupt. Outside the main thread: as ever.

    An exception in the middle of a message from another process would leave the rest of it in the pipe.
    """
    interrupted = threading.Event()

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
