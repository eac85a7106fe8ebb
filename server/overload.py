"""When calls lose their enhancement for lack of time, and when it comes back. No threads, no clock of its own.

Packets are late when they leave the engine later than ``LATE`` after they came: twice the bound of the rated
load, since a voice that is a little late is better than one with its noise. Time goes in windows of
``WINDOW``; one is late when more than a tenth of its packets are. A stall that passes sheds nobody: lateness
must last, and not be falling already. Then one call is shed per window. Once packets are ``DEEP`` behind and
fall back further, one is shed after each batch, two at twice that age, and so on: a call's queue must
not overflow before enough are shed. Each return needs some time without lateness, and one that fails makes
the next wait longer, so that a call at the border does not flap.
"""

from collections.abc import Sequence
from typing import Final

# s that a packet may spend at the server on top of the algorithm's delay, at the rated load
BOUND: Final = 0.010
LATE: Final = 2 * BOUND
DEEP: Final = 0.040  # s, two packets
WINDOW: Final = 0.1  # s
LATE_WINDOWS: Final = 3  # in a row before the first call is shed
TOLERATED: Final = 0.1  # share of packets over the limit in a good window
QUIET: Final = 1.0  # s without lateness before a call comes back
LONGEST_QUIET: Final = 16.0  # s
RETURN_INTERVAL: Final = 0.2  # s between calls that come back
TRIAL: Final = 1.0  # s: a call shed so soon after a return shows that there was no room for it
STEADY: Final = 0.9  # a backlog that shrinks faster than this per window goes by itself


class Overload:
    """Fed with the ages of finished packets; says what to do."""

    def __init__(self) -> None:
        self._begin: float | None = None  # of the window
        self._packets = self._late = self._slow = 0  # in the window
        self._worst = self._worst_before = 0.0  # s, in this window and the last
        self._worst_batch = 0.0  # s, in the last batch
        self._late_windows = 0  # in a row
        self._busy_at = self._restored_at = self._late_at = -LONGEST_QUIET
        self._quiet = QUIET  # s

    def late(self, now: float) -> bool:
        """Whether lateness lasted, and is not over for a second yet."""
        return now - self._late_at < QUIET

    def relieved(self) -> None:
        """A call has ended: there may be room that was not there at the last trial."""
        self._quiet = QUIET

    def note(self, now: float, ages: Sequence[float]) -> int:
        """Take the ages (s) of the packets of a batch that ended ``now``; none: nothing was to do.

        Returns how many calls to shed; -1: bring one back.
        """
        if self._begin is None:
            self._begin = now
        worst, before = max(ages, default=0.0), self._worst_batch
        self._worst_batch = worst
        self._packets += len(ages)
        self._late += sum(age > LATE for age in ages)
        self._slow += sum(age > BOUND for age in ages)
        self._worst = max(self._worst, worst)
        calls = 0
        if worst >= before > DEEP:
            calls = int(worst / DEEP)
        elif now - self._begin >= WINDOW:
            calls = self._close_window(now)
        if calls > 0:
            self._late_at = self._busy_at = now
            if now - self._restored_at < TRIAL:
                self._quiet = min(2 * self._quiet, LONGEST_QUIET)
                self._restored_at = now - TRIAL  # counts once
        return calls

    def _close_window(self, now: float) -> int:
        late = self._late > TOLERATED * self._packets
        slow = self._slow > TOLERATED * self._packets
        falling = self._worst < STEADY * self._worst_before
        self._worst_before, self._worst = self._worst, 0.0
        self._packets = self._late = self._slow = 0
        self._begin = now
        self._late_windows = self._late_windows + 1 if late else 0
        if slow:
            self._busy_at = now
        if self._late_windows >= LATE_WINDOWS:
            self._late_at = now
            return 0 if falling else 1
        quiet = now - self._busy_at >= self._quiet
        return -1 if quiet and now - self._restored_at >= RETURN_INTERVAL else 0

    def restored(self, now: float) -> None:
        """A call has been brought back."""
        self._restored_at = now
