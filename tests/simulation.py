"""An engine under calls without end, on a clock of its own."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from percepnet.framing import LATENCY, Float
from server.controls import Controls
from server.engine import STANDSTILL, Engine
from server.frames import PACKET
from server.port import Port
from server.rating import rated_calls

PER_BATCH, PER_CALL = 0.001, 0.0005  # s that a batch costs
RATED = rated_calls(PER_BATCH, PER_CALL, 0)  # nothing but the engine takes time here
GAIN = np.float32(0.25)  # what the fake enhancer makes of its input


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """An enhancer in its interface: turns the input down, late as the real one, and takes time on the clock."""

    latency_samples = LATENCY

    def __init__(self, streams: int, clock: Clock) -> None:
        self.streams = streams
        self.per_batch, self.per_call = PER_BATCH, PER_CALL
        self.factor = 1.0  # of the costs
        self.ill: set[int] = set()  # streams whose batches raise
        self.enabled = np.ones(streams, bool)
        self.asleep = np.zeros(streams, bool)
        self.faults = np.zeros(streams, np.int64)
        self.stalled: Callable[[], object] = lambda: None  # what comes of a batch that takes too long
        self._clock = clock
        self._delayed = np.zeros((streams, LATENCY), np.float32)

    def set(self, stream: int, *, enabled: bool | None = None, **_: object) -> None:
        if enabled is not None:
            self.enabled[stream] = enabled

    def reset(self, stream: int | None = None) -> None:
        self._delayed[slice(None) if stream is None else stream] = 0

    def process(self, x: Float, streams: Sequence[int]) -> Float:
        if self.ill.intersection(streams):
            raise RuntimeError("a fault on purpose")
        on = self.enabled[streams] & ~self.asleep[streams]
        if on.any():
            took = self.factor * (self.per_batch + self.per_call * on.sum())
            self._clock.now += took
            if took > STANDSTILL:
                self.stalled()
        joined = np.concatenate([self._delayed[streams], x], axis=1)
        self._delayed[streams] = joined[:, PACKET:]
        return joined[:, :PACKET] * np.where(on, GAIN, np.float32(1))[:, None]


class Waiting(threading.Condition):
    """For an engine without a thread: who waits lets the simulation go on."""

    def __init__(self, go_on: Callable[[float], None]) -> None:
        super().__init__()
        self._go_on = go_on

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._go_on(timeout)
        return True


class Simulation:
    """Calls that speak every 20 ms, spread over them, to an engine without its thread."""

    def __init__(self, calls: int) -> None:
        streams = 2 * RATED
        self.clock = Clock()
        self.enhancer = Slow(streams, self.clock)
        self.lag = 0.0
        self.engine = Engine(self.enhancer, streams=streams, clock=self.clock, lag=lambda: self.lag)  # type: ignore[arg-type]
        self.ports: list[Port] = []
        self.said: list[list[Float]] = []
        self.heard: list[list[Float]] = []
        self.ages: list[list[float]] = []
        self.shed: list[tuple[float, int]] = []  # how many after each batch
        self._next: list[float] = []
        self.pace = 0.02  # s between packets of a call
        self._random = np.random.default_rng(1)
        self.engine._wake = Waiting(self._wait)
        for _ in range(calls):
            self.call()

    def call(self, controls: Controls | None = None) -> Port:
        heard: list[Float] = []
        ages: list[float] = []

        def sink(time: int, samples: Float) -> None:
            heard.append(samples)
            ages.append(self.clock.now - time / 48_000)

        self.ports.append(self.engine.open(sink, controls))
        self.said.append([])
        self.heard.append(heard)
        self.ages.append(ages)
        self._next.append(self.clock.now + self._random.uniform(0, 0.02))
        return self.ports[-1]

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end and not until():
            self._speak(max(self.clock.now, min(self._next)))
            if any(port.waiting for port in self.ports):
                assert self.engine.work()
                self.shed.append((self.clock.now, self.engine.shed_calls))

    def _speak(self, now: float) -> None:
        for due, n in sorted((due, n) for n, due in enumerate(self._next)):
            while due <= now:
                packet = self._random.normal(0, 0.1, PACKET).astype(np.float32)
                self.said[n].append(packet)
                self.clock.now = due  # it came while the engine was busy
                if not self.ports[n].closed:
                    self.ports[n].submit(round(due * 48_000), packet)
                due += self.pace
            self._next[n] = due
        self.clock.now = now

    def _wait(self, timeout: float) -> None:
        self._speak(min(self.clock.now + timeout, max(self.clock.now, min(self._next))))

    def dropped(self) -> int:
        return sum(port.figures.dropped for port in self.ports)

    def enhancements(self) -> list[str]:
        return [port.enhancement for port in self.ports]


def dry(said: list[Float], packets: int) -> Float:
    return np.concatenate([np.zeros(LATENCY, np.float32), *said])[: packets * PACKET]
