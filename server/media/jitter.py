"""What a call's packets tell about its network: how much they jitter, and how far they are put out of order."""

from collections import deque
from typing import Final

SHORTEST_WAIT: Final = 0.010  # s; most of what overtakes does so by a few ms
LONGEST_WAIT: Final = 0.120  # s; later than that a listener has heard something else already
MEMORY: Final = 4.0  # s; so that a burst is forgotten within 5
SHARE: Final = 0.95  # of the packets that came out of order of late, the share that is waited for
MARGIN: Final = 1.25
KEPT: Final = 200  # packets out of order


class InterarrivalJitter:
    """Mean deviation of the packets' transit time, s (RFC 3550, 6.4.1)."""

    def __init__(self) -> None:
        self.value = 0.0
        self._last: tuple[float, int] | None = None

    def note(self, now: float, timestamp: int, rate: int) -> None:
        """Take a packet that came at ``now`` (s), with its RTP timestamp in units of 1/``rate`` s."""
        if self._last is not None:
            came, before = self._last
            step = timestamp - before & 0xFFFFFFFF
            deviation = abs(now - came - (step - (step >> 31 << 32)) / rate)
            if deviation < 10 * LONGEST_WAIT:  # else the sender has begun a new timeline
                self.value += (deviation - self.value) / 16
        self._last = (now, timestamp)

    def restart(self) -> None:
        """Another source follows, with timestamps of its own."""
        self._last = None


class HoleWait:
    """How long packets shall wait for one that is missing before them.

    Who waits for a packet that is lost waits in vain, and most that are missing are lost. So the wait is as long
    as the packets took that came out of order in the last ``MEMORY`` s, and short where none did. Those that
    took longer than the longest wait do not count: to wait for them would be no use.
    """

    def __init__(self) -> None:
        self._lateness: deque[tuple[float, float]] = deque(maxlen=KEPT)  # when, and how much: s

    def note(self, now: float, lateness: float) -> None:
        """A packet came ``lateness`` s after the first one that had overtaken it, in time or not."""
        if lateness <= LONGEST_WAIT:
            self._lateness.append((now, lateness))

    def wait(self, now: float) -> float:
        """The wait (s) at a hole that is met ``now``: ``SHORTEST_WAIT`` … ``LONGEST_WAIT``."""
        while self._lateness and now - self._lateness[0][0] > MEMORY:
            self._lateness.popleft()
        if not self._lateness:
            return SHORTEST_WAIT
        ordered = sorted(lateness for _, lateness in self._lateness)
        typical = ordered[min(len(ordered) - 1, int(SHARE * len(ordered)))]
        return min(LONGEST_WAIT, max(SHORTEST_WAIT, MARGIN * typical))
