"""Jitter buffer of a server between two callers, for packets that are one frame each (Opus, G.711, G.722).

It puts packets in order and does no more. There is no playout clock: a packet that is next in order leaves at
once, with the time its sender gave it, and the listener's own jitter buffer evens out the jitter of both ways
together. To do so here as well would delay all packets as much as the slowest. So a clean network costs no
delay, delay cannot grow over a call, and clocks that differ have nothing to drift against: what a burst, a
blackout or an hour at 200 ppm leaves behind is nothing.

Only a hole holds packets up, those behind it, for as long as packets that come out of order take on this call
(:class:`.jitter.HoleWait`): nothing sends a lost audio packet again. It reads no clock: callers say what time
it is.
"""

from dataclasses import astuple, dataclass
from typing import Final, Generic, Self, TypeVar

from .jitter import HoleWait

Item = TypeVar("Item")

CAPACITY: Final = 64  # packets behind a hole: 120 ms of the shortest; a burst of more gives the hole up
MAX_DROPOUT: Final = 3000  # packets ahead that still belong to the same sequence (RFC 3550, A.1)
MAX_MISORDER: Final = 100  # packets behind, likewise


@dataclass(slots=True)
class Counts:
    """What became of the packets. One that was given up and came after all is both lost and late."""

    received: int = 0
    lost: int = 0  # given up
    late: int = 0  # came when their place had been passed, and were dropped
    duplicate: int = 0  # dropped
    stray: int = 0  # far out of the sequence, and dropped
    reordered: int = 0  # came behind one that was sent later, in time or late

    def __add__(self, other: Self) -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class AudioJitterBuffer(Generic[Item]):
    """Puts packets in the order of their 16-bit sequence numbers; :attr:`counts` tells what it met."""

    def __init__(self, hole_wait: HoleWait) -> None:
        self.counts = Counts()
        self._hole_wait = hole_wait
        self._next: int | None = None  # sequence number, 0…65535, that leaves next
        self._held: dict[int, tuple[Item, float]] = {}  # packets behind a hole, and until when each may wait
        self._missing: dict[int, float] = {}  # numbers that were overtaken, given up or not, and when
        self._newest = 0  # number that is furthest in the sequence
        self._stray: tuple[int, Item] | None = None  # may be the first packet of a sender's new sequence

    @property
    def deadline(self) -> float | None:
        """When :meth:`expire` has something to release; None while no packet waits."""
        return min(until for _, until in self._held.values()) if self._held else None

    def add(self, sequence: int, item: Item, now: float) -> list[Item]:
        """Take a packet that came at ``now`` (s); returns those that may leave, in order."""
        self.counts.received += 1
        if sequence == self._next and not (self._held or self._missing or self._stray):
            self._newest = sequence  # all is well: no more to do
            self._next = sequence + 1 & 0xFFFF
            return [item]
        if self._next is None:
            self._begin(sequence)
        ahead = self._ahead(sequence)
        if not -MAX_MISORDER <= ahead < MAX_DROPOUT:
            return self._far(sequence, item, now)
        if self._stray is not None:
            self._stray = None
            self.counts.stray += 1
        if sequence in self._missing:
            self.counts.reordered += 1
            self._hole_wait.note(now, now - self._missing.pop(sequence))
            self.counts.late += ahead < 0
        elif ahead < 0 or sequence in self._held:
            self.counts.duplicate += 1
            return []
        if ahead < 0:
            return []
        self._overtake(sequence, now)
        self._held[sequence] = (item, now + self._hole_wait.wait(now) if ahead else now)
        if len(self._held) > CAPACITY:
            self._give_up_hole()
        return self._consecutive()

    def expire(self, now: float) -> list[Item]:
        """Give up on holes that packets have waited at for long enough; returns what may leave."""
        released: list[Item] = []
        while (deadline := self.deadline) is not None and deadline <= now:
            self._give_up_hole()
            released += self._consecutive()
        return released

    def flush(self) -> list[Item]:
        """Give up on all holes, and on what may have begun a new sequence; returns what waited behind them."""
        if self._stray is not None:
            self._stray = None
            self.counts.stray += 1
        return self.expire(float("inf"))

    def _begin(self, sequence: int) -> None:
        self._next = sequence
        self._newest = sequence - 1 & 0xFFFF
        self._missing.clear()

    def _far(self, sequence: int, item: Item, now: float) -> list[Item]:
        """A packet far from the sequence: one is astray, two in a row begin a new one (RFC 3550, A.1)."""
        first, self._stray = self._stray, (sequence, item)
        if first is None:
            return []
        if sequence != first[0] + 1 & 0xFFFF:
            self.counts.stray += 1
            return []
        self._stray = None
        released = [*self.flush(), first[1]]
        self._begin(sequence)
        self.counts.received -= 1  # counted again there
        return released + self.add(sequence, item, now)

    def _ahead(self, sequence: int) -> int:
        """Places from the next packet, −32768…32767."""
        assert self._next is not None
        return (sequence - self._next + 0x8000 & 0xFFFF) - 0x8000

    def _overtake(self, sequence: int, now: float) -> None:
        """Note the numbers before ``sequence`` that are missing from now on."""
        step = (sequence - self._newest + 0x8000 & 0xFFFF) - 0x8000
        if step <= 0:
            return
        self._newest = sequence
        for behind in range(min(step - 1, MAX_MISORDER), 0, -1):
            self._missing[sequence - behind & 0xFFFF] = now
        while self._missing and sequence - (oldest := next(iter(self._missing))) & 0xFFFF > MAX_MISORDER:
            del self._missing[oldest]

    def _consecutive(self) -> list[Item]:
        assert self._next is not None
        released = []
        while self._next in self._held:
            released.append(self._held.pop(self._next)[0])
            self._next = self._next + 1 & 0xFFFF
        return released

    def _give_up_hole(self) -> None:
        behind = min(self._held, key=self._ahead)
        self.counts.lost += self._ahead(behind)
        self._next = behind
