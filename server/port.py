"""A call's place at the engine: its queue, its figures, and how results get back to it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np

from percepnet.framing import Float, continued

from .controls import Changes, Controls
from .dry import DryLine
from .frames import PACKET
from .logs import current_call

Sink: TypeAlias = Callable[[int, Float], object]
Enhancement: TypeAlias = Literal["on", "off", "shed", "failed"]
Result: TypeAlias = tuple["Port", int, Float]  # whose packet, its time, its samples

SILENCE_DB: Final = -120.0  # floor of the level meters

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Figures:
    """What a call may know of its packets in the engine. Written by the engine's thread, read by any."""

    packets_in: int = 0
    packets_out: int = 0
    dropped: int = 0  # packets that a full queue has pushed out
    faults: int = 0
    degraded: bool = False  # dry audio, because the last attempt to enhance it failed
    shed: bool = False  # dry audio, because there was no time to enhance it
    shed_packets: int = 0
    passed: int = 0  # packets that went past an engine that stood still
    level_in_db: float = SILENCE_DB  # dB relative to a full-scale square wave
    level_out_db: float = SILENCE_DB
    batch: int = 0  # calls in the last batch
    wait_ms: float = 0.0  # from the queue to the batch
    step_ms: float = 0.0  # time that the batch took


class Owner(Protocol):
    """The engine, as its ports know it."""

    @property
    def latency_samples(self) -> int: ...

    def submit(self, port: "Port", time_: int, samples: Float) -> None: ...

    def set(self, port: "Port", changes: Changes) -> None: ...

    def close(self, port: "Port") -> None: ...


class Port:
    """A call's place at the engine, safe from any thread.

    Results come in order to ``sink(time, samples)``, in ``loop`` if one is given, else in the engine's thread.
    """

    def __init__(
        self,
        engine: Owner,
        slot: int,
        sink: Sink,
        controls: Controls,
        queue_packets: int,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.controls = controls
        self.figures = Figures()
        self.slot = slot
        self.sink = sink
        self.loop = loop
        self.waiting: deque[tuple[int, Float, float, float]] = deque()  # time, samples, when queued, when due
        self.queue_packets = queue_packets
        self.closed = False
        self.call = current_call()  # for logs
        self.last_packet = -np.inf  # when the engine ended its last, s
        self.dry = DryLine(engine.latency_samples)
        self.at_work: tuple[int, Float] | None = None  # time and dry audio of its packet in the batch
        self.last_sample = 0.0  # that was handed over
        self.failed = False  # and its packet was dry because a step has failed
        self.past = False  # and its packet went past
        self.due = -np.inf  # from when on the packet queued last counts as waiting, s
        self._engine = engine

    @property
    def enhancement(self) -> Enhancement:
        """What the call gets: enhanced, or dry audio and why."""
        if not self.controls.enabled:
            return "off"
        if self.figures.degraded:
            return "failed"
        return "shed" if self.figures.shed else "on"

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

    def go_past(self) -> list["Result"]:
        """Take all its packets as dry audio, the one at work first. Under the engine's lock."""
        before = self.dry.last if self.at_work is None else self.dry.before
        packets = [self.at_work] if self.at_work is not None else []
        self.at_work = None
        packets += [(time, self.dry.push(samples)) for time, samples, *_ in self.waiting]
        self.waiting.clear()
        if packets and not self.past:
            time, samples = packets[0]
            packets[0] = time, continued(samples, before, self.last_sample)
            self.past = True
        self.figures.passed += len(packets)
        self.figures.degraded |= bool(packets)
        return [(self, time, samples) for time, samples in packets]

    def close(self) -> None:
        """Give the place back. Packets that wait are forgotten, and no result comes after this."""
        self._engine.close(self)


def deliver(results: Iterable[Result]) -> None:
    """Hand over results, in order; each event loop is woken up once."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[Result]] = {}
    for result in results:
        port, _, samples = result
        port.figures.packets_out += 1
        port.last_sample = float(samples[-1])
        by_loop.setdefault(port.loop, []).append(result)
    for loop, packets in by_loop.items():
        if loop is None:
            _hand_over(packets)
            continue
        try:
            loop.call_soon_threadsafe(_hand_over, packets)
        except RuntimeError:  # the loop is closed; its calls are ending
            logger.warning("an event loop has closed before its calls", exc_info=True)


def _hand_over(packets: list[Result]) -> None:
    for port, time_, samples in packets:
        try:
            port.sink(time_, samples)
        except Exception:
            logger.exception("a call did not take its packet", extra={"call": port.call})


def nobody(time: int, samples: Float) -> None:
    """Takes the packets of a closed port."""
