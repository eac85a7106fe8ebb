"""The one thread that enhances the packets of all calls. It knows nothing of WebRTC.

The thread sleeps until a packet waits. Then it takes one from every call that has any, and enhances them as
one batch. At low load that is a batch of one, at once; at high load more packets gather while a batch is
computed, and the next is larger and cheaper per call. Only this thread touches the ``Enhancer``.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from percepnet import Enhancer
from percepnet.framing import Float

from .controls import Changes, Controls
from .fallback import Fallback
from .frames import PACKET

Sink: TypeAlias = Callable[[int, Float], object]

SILENCE_DB: Final = -120.0  # floor of the level meters

logger = logging.getLogger(__name__)


class EngineFull(Exception):
    """All streams of the engine are taken."""


@dataclass(slots=True)
class Figures:
    """What a call may know of its packets in the engine. Written by the engine's thread, read by any."""

    packets_in: int = 0
    packets_out: int = 0
    dropped: int = 0  # packets that a full queue has pushed out
    faults: int = 0
    degraded: bool = False  # dry audio, because the last attempt to enhance it failed
    level_in_db: float = SILENCE_DB  # dB relative to a full-scale square wave
    level_out_db: float = SILENCE_DB
    batch: int = 0  # calls in the last batch
    wait_ms: float = 0.0  # from the queue to the batch
    step_ms: float = 0.0  # time that the batch took


class Port:
    """A call's place at the engine, safe from any thread.

    Results come in order to ``sink(time, samples)``, in the engine's thread.
    """

    def __init__(
        self, engine: "Engine", slot: int, sink: Sink, controls: Controls, queue_packets: int
    ) -> None:
        self.controls = controls
        self.figures = Figures()
        self.slot = slot
        self.sink = sink
        self.waiting: deque[tuple[int, Float, float]] = deque(maxlen=queue_packets)
        self.closed = False
        self._engine = engine

    def submit(self, time: int, samples: Float) -> None:
        """Queue a packet, float32 ``[960]`` at 48 kHz; ``time`` comes back with it.

        Never blocks: in a full queue the oldest packet makes room, and is counted as dropped.
        """
        if samples.shape != (PACKET,) or samples.dtype != np.float32:
            raise ValueError(f"a packet is float32 [{PACKET}], not {samples.dtype} {list(samples.shape)}")
        self._engine.submit(self, time, samples)

    def set(self, changes: Changes) -> None:
        """Turn controls; they hold from the next batch."""
        self._engine.set(self, changes)

    def close(self) -> None:
        """Give the place back. Packets that wait are forgotten, and no result comes after this."""
        self._engine.close(self)


class Engine:
    """Runs ``enhancer`` for as many calls as it has streams."""

    def __init__(self, enhancer: Enhancer, *, streams: int, queue_packets: int = 10) -> None:
        self._enhancer = enhancer
        self._queue_packets = queue_packets
        self._fallback = Fallback(enhancer, streams)
        self._wake = threading.Condition()  # guards everything from here to the thread
        self._free = list(range(streams - 1, -1, -1))
        self._ports: dict[int, Port] = {}
        self._opened: list[Port] = []  # since the last batch
        self._turned: dict[Port, Changes] = {}  # since the last batch
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def latency_samples(self) -> int:
        return self._enhancer.latency_samples

    def start(self) -> None:
        self._enhancer.process(np.zeros((1, PACKET), np.float32), streams=[0])  # the first step allocates
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current batch."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def open(self, sink: Sink, controls: Controls | None = None) -> Port:
        """Take a stream, as new; raises :class:`EngineFull`. ``sink`` must return at once."""
        with self._wake:
            if not self._free:
                raise EngineFull(f"all {len(self._ports)} streams are taken")
            port = Port(self, self._free.pop(), sink, controls or Controls(), self._queue_packets)
            self._ports[port.slot] = port
            self._opened.append(port)
        return port

    def submit(self, port: Port, time_: int, samples: Float) -> None:
        with self._wake:
            if port.closed:
                return
            port.figures.packets_in += 1
            port.figures.dropped += len(port.waiting) == port.waiting.maxlen
            port.waiting.append((time_, samples, time.perf_counter()))
            self._wake.notify()

    def set(self, port: Port, changes: Changes) -> None:
        with self._wake:
            if not port.closed:
                port.controls = port.controls.merged(changes)
                self._turned[port] = self._turned.get(port, Changes()) | changes

    def close(self, port: Port) -> None:
        with self._wake:
            if not port.closed:
                port.closed = True
                port.sink = _nobody  # the thread may keep the port until its next batch, but not the call
                port.waiting.clear()
                self._opened = [other for other in self._opened if other is not port]
                self._turned.pop(port, None)
                del self._ports[port.slot]
                self._free.append(port.slot)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or any(p.waiting for p in self._ports.values()))
                if self._stopping:
                    return
                opened, self._opened = self._opened, []
                turned, self._turned = self._turned, {}
                batch = [(port, *port.waiting.popleft()) for port in self._ports.values() if port.waiting]
            try:
                for port in opened:
                    self._fallback.renew(port.slot, port.controls.as_changes())
                for port, changes in turned.items():
                    if not port.closed:  # else the stream may be another call's by now
                        self._fallback.turn(port.slot, changes)
                self._step(batch)
            except Exception:  # the calls of this batch miss a packet, all calls go on
                logger.exception("the engine failed on a batch of %d", len(batch))
                for port, *_ in batch:
                    port.figures.dropped += 1

    def _step(self, batch: list[tuple[Port, int, Float, float]]) -> None:
        began = time.perf_counter()
        ports = [port for port, *_ in batch]
        x = np.stack([samples for _, _, samples, _ in batch])  # [calls, 960]
        y = self._fallback.process([port.slot for port in ports], x)
        level_in, level_out = _level_db(x), _level_db(y)
        ended = time.perf_counter()
        for row, (port, time_, _, queued) in enumerate(batch):
            figures = port.figures
            figures.level_in_db, figures.level_out_db = float(level_in[row]), float(level_out[row])
            figures.degraded = self._fallback.degraded(port.slot)
            figures.faults = self._fallback.faults(port.slot)
            figures.batch = len(batch)
            figures.wait_ms, figures.step_ms = (began - queued) * 1e3, (ended - began) * 1e3
            if port.closed:
                continue
            figures.packets_out += 1
            try:
                port.sink(time_, y[row])
            except Exception:
                logger.exception("a call did not take its packet")


def _nobody(time: int, samples: Float) -> None:
    """Takes the packets of a closed port."""


def _level_db(x: Float) -> Float:
    """Level of each row of ``x [calls, samples]``."""
    power = np.einsum("cs,cs->c", x, x) / x.shape[1]
    level: Float = 10 * np.log10(np.maximum(power, np.float32(10 ** (SILENCE_DB / 10))))
    return level
