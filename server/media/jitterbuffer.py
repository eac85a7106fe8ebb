"""Jitter buffer for packets that are one frame each (Opus, G.711, G.722).

A packet that is next in order leaves at once, so that a clean network costs no delay. At a hole the packets
behind it wait, but never longer than ``HOLE_WAIT``: nothing sends a lost audio packet again, so a packet
that is missing for longer than packets get reordered is lost. It reads no clock: callers say what time it is.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

HOLE_WAIT: Final = 0.020  # s that packets wait for one that is missing; reordering takes a few ms
CAPACITY: Final = 16  # packets behind a hole; a burst of more gives the hole up
MAX_DROPOUT: Final = 3000  # packets ahead that still belong to the same sequence (RFC 3550, A.1)
MAX_MISORDER: Final = 100  # packets behind, likewise


@dataclass(slots=True)
class Counts:
    """What became of the packets. A packet that was given up and came after all is both lost and late."""

    received: int = 0
    lost: int = 0
    late: int = 0
    duplicate: int = 0


class AudioJitterBuffer(Generic[Item]):
    """Puts packets in the order of their 16-bit sequence numbers; :attr:`counts` tells what it met."""

    def __init__(self, hole_wait: float = HOLE_WAIT) -> None:
        self.counts = Counts()
        self._hole_wait = hole_wait
        self._next: int | None = None  # sequence number, 0…65535, that leaves next
        self._held: dict[int, tuple[Item, float]] = {}  # packets behind a hole, and when each came
        self._given_up: dict[int, None] = {}  # lost numbers, oldest first: told from duplicates if they come
        self._restart: int | None = None  # number that would confirm a sender's new sequence

    @property
    def deadline(self) -> float | None:
        """When :meth:`expire` has something to release; None while no packet waits."""
        return min(came for _, came in self._held.values()) + self._hole_wait if self._held else None

    def add(self, sequence: int, item: Item, now: float) -> list[Item]:
        """Take a packet that came at ``now`` (s); returns those that may leave, in order."""
        self.counts.received += 1
        if self._next is None:
            self._next = sequence
        ahead = (sequence - self._next + 0x8000 & 0xFFFF) - 0x8000  # −32768…32767
        if not -MAX_MISORDER <= ahead < MAX_DROPOUT:
            if sequence != self._restart:
                self._restart = sequence + 1 & 0xFFFF
                return []  # one stray packet is no new sequence; two in a row are (RFC 3550, A.1)
            released = [held for held, _ in self._in_order()]
            self._held.clear()
            self._given_up.clear()
            self._next, ahead = sequence, 0
        else:
            released = []
        self._restart = None
        if ahead < 0:
            self._count_old(sequence)
        elif sequence in self._held:
            self.counts.duplicate += 1
        else:
            self._held[sequence] = (item, now)
            if len(self._held) > CAPACITY:
                self._give_up_hole()
            released += self._consecutive()
        return released

    def expire(self, now: float) -> list[Item]:
        """Give up on holes that packets have waited at for ``hole_wait``; returns what may leave."""
        released: list[Item] = []
        while (deadline := self.deadline) is not None and deadline <= now:
            self._give_up_hole()
            released += self._consecutive()
        return released

    def _ahead(self, sequence: int) -> int:
        assert self._next is not None
        return sequence - self._next & 0xFFFF

    def _in_order(self) -> list[tuple[Item, float]]:
        return [self._held[sequence] for sequence in sorted(self._held, key=self._ahead)]

    def _consecutive(self) -> list[Item]:
        assert self._next is not None
        released = []
        while self._next in self._held:
            released.append(self._held.pop(self._next)[0])
            self._next = self._next + 1 & 0xFFFF
        return released

    def _give_up_hole(self) -> None:
        assert self._next is not None
        behind = min(self._held, key=self._ahead)
        hole = self._ahead(behind)
        self.counts.lost += hole
        for missing in range(max(0, hole - MAX_MISORDER), hole):
            self._given_up[self._next + missing & 0xFFFF] = None
        while len(self._given_up) > MAX_MISORDER:
            del self._given_up[next(iter(self._given_up))]
        self._next = behind

    def _count_old(self, sequence: int) -> None:
        if sequence in self._given_up:
            del self._given_up[sequence]
            self.counts.late += 1
        else:
            self.counts.duplicate += 1
