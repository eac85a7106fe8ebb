"""An engine that tests hold up and break, and what its calls hear."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from percepnet import Enhancer
from percepnet.framing import LATENCY, Float
from server.controls import Controls
from server.engine import Engine
from server.frames import PACKET
from server.port import Port

TIMEOUT = 20  # s, far above what anything here takes


class Gate(Enhancer):
    """An Enhancer that keeps note of its batches, and can be held up or broken."""

    def __init__(self, streams: int) -> None:
        super().__init__(streams=streams)
        self.batches: list[list[int]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.faulty: Callable[[list[int]], bool] = lambda streams: False

    def process(self, x: Float, streams: Sequence[int] | NDArray[np.int64] | None = None) -> Float:
        assert streams is not None
        self.batches.append([int(stream) for stream in streams])
        self.entered.release()
        assert self.open.wait(TIMEOUT)
        if self.faulty(self.batches[-1]):
            raise RuntimeError("a fault on purpose")
        return super().process(x, streams=streams)


class Ear:
    """Collects what a port gives back."""

    def __init__(self, engine: Engine, controls: Controls | None = None) -> None:
        self.heard: list[tuple[int, Float]] = []
        self._news = threading.Condition()
        self.port: Port = engine.open(self._sink, controls)

    def _sink(self, time: int, samples: Float) -> None:
        with self._news:
            self.heard.append((time, samples))
            self._news.notify_all()

    def wait(self, packets: int) -> Float:
        with self._news:
            assert self._news.wait_for(lambda: len(self.heard) >= packets, TIMEOUT)
            return np.concatenate([samples for _, samples in self.heard])

    def say(self, pcm: Float) -> Float:
        """Submit one packet after the other, each when the last is back."""
        before = len(self.heard)
        for n, samples in enumerate(pcm.reshape(-1, PACKET)):
            self.port.submit(before + n, samples)
            self.wait(before + n + 1)
        return np.concatenate([samples for _, samples in self.heard[before:]])


def together(gate: Gate, blocker: Ear, packets: dict[Ear, Float]) -> None:
    """Have the packets of several calls taken as one batch: the engine is held up by another call's meanwhile."""
    while gate.entered.acquire(blocking=False):
        pass
    gate.open.clear()
    blocker.port.submit(0, np.zeros(PACKET, np.float32))
    assert gate.entered.acquire(timeout=TIMEOUT)
    counts = {ear: len(ear.heard) for ear in packets}
    for ear, samples in packets.items():
        ear.port.submit(counts[ear], samples)
    gate.open.set()
    for ear, count in counts.items():
        ear.wait(count + 1)


def alone(pcm: Float) -> Float:
    """What a separate Enhancer gives, packet by packet."""
    enhancer = Enhancer(streams=1)
    packets = pcm.reshape(-1, 1, PACKET)
    return np.concatenate([enhancer.process(packet)[0] for packet in packets])


def delayed(pcm: Float) -> Float:
    return np.concatenate([np.zeros(LATENCY, np.float32), pcm])[: len(pcm)]
