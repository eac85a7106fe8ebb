"""The one thread that enhances the packets of all calls. It knows nothing of WebRTC.

The thread sleeps until a packet waits. Then it takes one from every call that has any, and enhances them as
one batch. At low load that is a batch of one, at once; at high load it lets packets gather that are about to
come (``server.gathering``), and more while a batch is computed: batches are larger, and cheaper per call. Only
this thread touches the ``Enhancer``.

So a packet waits for others or for one batch, and is computed in the next; up to the rated load both together
take 10 ms (``server.rating``). Beyond it calls are shed, the newest first: who was there keeps what they have, and
the calls that change are always the same few. They come back in the reverse order (``server.overload``).
A burst of one call's packets, which its network had held up, is no overload: each counts as waiting only from
when it would have been due had they come one by one.

A second thread watches the first. While a batch does not end, or the thread has died, each packet goes past it as
dry audio, and calls come back with the usual warm-up. A thread that has died is replaced.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Final

import numpy as np

from percepnet import Enhancer
from percepnet.framing import SAMPLE_RATE, Float, continued

from .controls import Changes, Controls
from .fallback import Fallback
from .figures import BatchFigures, LoopLag
from .frames import BACKLOG_PACKETS, PACKET, cut
from .gathering import LONGEST, Gathering
from .overload import WINDOW, Overload
from .port import SILENCE_DB, Port, Result, Sink, deliver, nobody

# s that a batch may take: ten times what it does at the rated load, and no queue is full
STANDSTILL: Final = 0.15
LONGEST_STANDSTILL: Final = 20.0  # s after which there is little hope
WATCH_INTERVAL: Final = 0.05  # s
MOST_DEATHS: Final = 3  # of the thread; one that dies again and again has broken the process
BURST_STEP: Final = 0.9 * PACKET / SAMPLE_RATE  # s between packets of a burst before they count as waiting

logger = logging.getLogger(__name__)


class EngineFull(Exception):
    """All streams of the engine are taken."""


@asynccontextmanager
async def running(
    enhancer: Enhancer, *, streams: int, queue_packets: int = BACKLOG_PACKETS
) -> AsyncIterator["Engine"]:
    """An engine that is at work inside; how late the event loop is counts as lateness, too."""
    loop = asyncio.get_running_loop()
    lag = LoopLag(loop)
    engine = Engine(enhancer, streams=streams, queue_packets=queue_packets, lag=lag)
    try:
        await loop.run_in_executor(None, engine.start)
        yield engine
    finally:
        lag.stop()
        await loop.run_in_executor(None, engine.stop)


class Engine:
    """Runs ``enhancer`` for as many calls as it has streams."""

    def __init__(
        self,
        enhancer: Enhancer,
        *,
        streams: int,
        queue_packets: int = BACKLOG_PACKETS,
        lag: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``lag`` (s) tells what packets wait for outside of the engine; it counts as lateness, too."""
        self.batches = BatchFigures(streams)
        self.sheds = 0  # calls that were put on dry audio for lack of time, since start
        self._enhancer = enhancer
        self._queue_packets = queue_packets
        self._lag = lag
        self._clock = clock
        self._fallback = Fallback(enhancer, streams)
        self._overload = Overload()
        self._gathering = Gathering()
        self._wake = threading.Condition()  # guards everything from here to the thread
        self._free = list(range(streams - 1, -1, -1))
        self._ports: dict[int, Port] = {}  # the oldest call first
        self._ready: list[Port] = []  # those with packets that wait
        self._shed: list[Port] = []  # in the order in which they were
        self._enough = 1  # ready ports that the thread is woken up for
        self._opened: list[Port] = []  # since the last batch
        self._turned: dict[Port, Changes] = {}  # since the last batch
        self._passed: set[Port] = set()  # those of whose packets some went past, since their last batch
        self._batch_since: float | None = None  # s
        self._stands_still = False
        self._stopping = False
        self._deaths = 0
        self._thread = self._new_thread()
        self._watched = threading.Event()  # set when there is no more to watch
        self._watch = threading.Thread(target=self._keep_watch, name="engine's watch", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether calls are enhanced, or may still be."""
        since = self._batch_since
        return self._thread.is_alive() and (since is None or self._clock() - since < LONGEST_STANDSTILL)

    @property
    def latency_samples(self) -> int:
        return self._enhancer.latency_samples

    @property
    def shed_calls(self) -> int:
        """Calls on dry audio now because there is no time to enhance them."""
        return len(self._shed)

    @property
    def failed_calls(self) -> int:
        """Calls on dry audio now because enhancing them fails."""
        return sum(port.enhancement == "failed" for port in list(self._ports.values()))

    @property
    def overloaded(self) -> bool:
        """Whether packets of calls at hand are late, or calls are shed so that they are not."""
        return bool(self._shed) or (bool(self._ports) and self._overload.late(self._clock()))

    def start(self) -> None:
        self._enhancer.process(np.zeros((1, PACKET), np.float32), streams=[0])  # the first step allocates
        self._thread.start()
        self._watch.start()

    def stop(self) -> None:
        """End the threads, after the current batch."""
        self._watched.set()
        if self._watch.is_alive():
            self._watch.join()
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def open(
        self,
        sink: Sink,
        controls: Controls | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> Port:
        """Take a stream, as new; raises :class:`EngineFull`. ``sink`` must return at once.

        With ``loop`` it is called there, and the packets of a batch cost that loop one wake-up together.
        """
        with self._wake:
            if not self._free:
                raise EngineFull(f"all {len(self._ports)} streams are taken")
            port = Port(self, self._free.pop(), sink, controls or Controls(), self._queue_packets, loop)
            self._ports[port.slot] = port
            self._opened.append(port)
        return port

    def submit(self, port: Port, time_: int, samples: Float) -> None:
        with self._wake:
            if port.closed:
                return
            port.figures.packets_in += 1
            if not port.waiting:
                self._ready.append(port)
                if len(self._ready) >= self._enough:
                    self._wake.notify()
            queued = self._clock()
            # Half a queue ahead at most, for the packets of who sends faster than time shall count as late, too.
            ahead = min(port.due - queued, port.queue_packets / 2 * BURST_STEP)
            port.due = queued + max(0.0, ahead + BURST_STEP)
            port.waiting.append((time_, samples, queued, port.due))
            if len(port.waiting) > port.queue_packets:
                _, dropped, *_ = port.waiting.popleft()
                time_, kept, *times = port.waiting[0]
                port.waiting[0] = (time_, cut(dropped, kept), times[0], times[1])
                port.figures.dropped += 1
            if self._stands_still:
                self._pass([port])

    def set(self, port: Port, changes: Changes) -> None:
        with self._wake:
            if not port.closed:
                port.controls = port.controls.merged(changes)
                self._turned[port] = self._turned.get(port, Changes()) | changes

    def close(self, port: Port) -> None:
        with self._wake:
            if not port.closed:
                port.closed = True
                port.sink = nobody  # the thread may keep the port until its next batch, but not the call
                port.waiting.clear()
                port.at_work = None
                self._passed.discard(port)
                for ports in (self._opened, self._ready, self._shed):
                    if port in ports:
                        ports.remove(port)
                self._overload.relieved()
                self._turned.pop(port, None)
                del self._ports[port.slot]
                self._free.append(port.slot)

    def _run(self) -> None:
        while self.work():
            pass

    def work(self) -> bool:
        """Wait for packets and enhance one batch of them; False when the engine is to stop."""
        with self._wake:
            while not (self._ready or self._stopping):
                if not self._wake.wait(WINDOW if self._shed else None):
                    break  # calls wait to come back, even if nobody speaks
            self._gather()
            if self._stopping:
                return False
            opened, self._opened = self._opened, []
            turned, self._turned = self._turned, {}
            # In the order of streams: the Enhancer has its states in place for all of them in order.
            ports = sorted(self._ready, key=lambda port: port.slot)
            batch = [(port, *port.waiting.popleft()) for port in ports]
            self._ready = [port for port in self._ready if port.waiting]
            resuming = [port for port in ports if port in self._passed]
            self._passed.difference_update(resuming)
            dry = [port.dry.push(samples) for port, _, samples, *_ in batch]
            for (port, time_, *_), delayed in zip(batch, dry, strict=True):
                port.at_work = time_, delayed
            self._batch_since = self._clock()
        try:
            for port in opened:
                self._fallback.renew(port.slot, port.controls.as_changes(), port.call)
            for port, changes in turned.items():
                if not port.closed:  # else the stream may be another call's by now
                    self._fallback.turn(port.slot, changes)
            for port in resuming:
                self._fallback.resume(port.slot)
            if batch:
                self._step(batch, np.array(dry), resuming)  # np.array: half the time of stack()
            self._balance([due for *_, due in batch])
        except Exception:  # the calls of this batch get dry audio, all calls go on
            logger.exception("the engine failed on a batch of %d", len(batch))
            with self._wake:
                self._pass(port for port, *_ in batch if port.at_work is not None)
        finally:
            with self._wake:
                self._batch_since = None
                if self._stands_still:
                    self._stands_still = False
                    logger.warning("the engine goes on")
        return True

    def _gather(self) -> None:
        """Wait for packets that are due soon, as far as the oldest that waits has the patience. Under the lock."""
        patience = self._gathering.patience
        while self._ready and not self._stopping and all(len(port.waiting) == 1 for port in self._ready):
            now = self._clock()
            until = min(port.waiting[0][2] for port in self._ready) + patience
            coming = sum(
                -LONGEST < port.due + PACKET / SAMPLE_RATE - now < until - now
                for port in self._ports.values()
                if not port.waiting
            )
            if not coming or now >= until:
                break
            self._enough = len(self._ready) + coming
            self._wake.wait(until - now)
        self._enough = 1

    def _step(
        self, batch: list[tuple[Port, int, Float, float, float]], dry: Float, resuming: Collection[Port]
    ) -> None:
        began = self._clock()
        x = np.array([samples for _, _, samples, *_ in batch])  # [calls, 960]
        y = self._fallback.process([port.slot for port, *_ in batch], x, dry)
        levels = zip(_level_db(x).tolist(), _level_db(y).tolist(), strict=True)
        ended = self._clock()
        step_ms = (ended - began) * 1e3
        self.batches.note(len(batch), step_ms)
        self._gathering.note(began, ended)
        results: list[Result] = []
        with self._wake:  # or packets that go past would overtake these
            for samples, (port, time_, _, queued, _), (level_in, level_out) in zip(
                y, batch, levels, strict=True
            ):
                port.last_packet = ended
                if port.at_work is None:
                    continue  # it went past, or the call is over
                port.at_work = None
                port.past = False
                failed = self._fallback.failed(port.slot)
                if (failed and not port.failed) or port in resuming:  # perhaps straight from enhanced audio
                    samples = continued(samples, port.dry.before, port.last_sample)
                port.failed = failed
                figures = port.figures
                figures.level_in_db, figures.level_out_db = level_in, level_out
                figures.degraded = self._fallback.degraded(port.slot)
                figures.faults = self._fallback.faults(port.slot)
                figures.shed = self._fallback.is_shed(port.slot)
                figures.shed_packets += figures.shed
                figures.batch = len(batch)
                figures.wait_ms, figures.step_ms = (began - queued) * 1e3, step_ms
                results.append((port, time_, samples))
            deliver(results)

    def _pass(self, ports: Iterable[Port]) -> None:
        """Hand over all packets of ``ports`` as dry audio. Under the lock."""
        passed: list[Result] = []
        for port in ports:
            if port in self._ready:
                self._ready.remove(port)
            if packets := port.go_past():
                self._passed.add(port)
                passed += packets
        deliver(passed)

    def _keep_watch(self) -> None:
        while not self._watched.wait(WATCH_INTERVAL):
            with self._wake:
                if self._thread.is_alive():
                    since = self._batch_since
                    if since is None or self._clock() - since < STANDSTILL:
                        continue
                self._stand_still()

    def _stand_still(self) -> None:
        """Let packets go past, and see to it that there is a thread. Under the lock."""
        if not self._stands_still:
            self._stands_still = True
            logger.warning("the engine stands still: %d calls get dry audio", len(self._ports))
        self._pass(self._ports.values())
        if not self._thread.is_alive() and self._deaths < MOST_DEATHS:
            logger.error("the engine's thread has died; the next one begins all calls as new")
            self._deaths += 1
            self._opened = list(self._ports.values())
            self._shed.clear()
            self._passed.update(self._opened)
            self._thread = self._new_thread()
            self._thread.start()
            self._stands_still = False

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="engine", daemon=True)

    def _balance(self, due: list[float]) -> None:
        """Shed calls, or bring one back, after a batch of packets that were due at those times."""
        now = self._clock()
        lag = self._lag()
        calls = self._overload.note(now, [max(0.0, now - time_) + lag for time_ in due])
        if not calls:
            return
        with self._wake:
            if calls < 0:
                if self._shed:
                    self._fallback.restore(self._shed.pop().slot)
                    self._overload.restored(now)
                return
            # A call that pauses, is muted, fails or is off costs nothing already; one that went past does.
            asleep = self._enhancer.asleep
            costly = (
                port
                for port in reversed(self._ports.values())
                if port.controls.enabled
                and not self._fallback.degraded(port.slot)
                and not asleep[port.slot]
                and now - port.last_packet < WINDOW
                and port not in self._shed
            )
            for port in list(islice(costly, calls)):
                self._fallback.shed(port.slot)
                self._shed.append(port)
                self.sheds += 1


def _level_db(x: Float) -> Float:
    """Level of each row of ``x [calls, samples]``."""
    power = np.einsum("cs,cs->c", x, x) / x.shape[1]
    level: Float = 10 * np.log10(np.maximum(power, np.float32(10 ** (SILENCE_DB / 10))))
    return level
