"""What becomes of each datagram: decided by a seed and the datagram's number alone, never by when it comes."""

from dataclasses import dataclass
from random import Random
from typing import Final

from .conditions import OVERTAKEN, RUN, Weather

LOST_IN_BURST: Final = 0.75  # of the datagrams in a bad phase; in a good one none


@dataclass(frozen=True, slots=True)
class Fate:
    """How late each copy of a datagram comes, s; none for one that is lost. ``overtaken``: the next need not wait."""

    delays: tuple[float, ...]
    overtaken: bool = False

    @property
    def is_lost(self) -> bool:
        return not self.delays


ON_TIME: Final = Fate((0.0,))


class Fates:
    """The fates of one kind of datagrams in one direction, one after the other."""

    def __init__(self, weather: Weather, seed: str) -> None:
        self._weather = weather
        self._chance = Random(seed)
        # Elliott's two phases, left with fixed probabilities, so that a bad one lasts RUN datagrams on average
        # and the share of the time that is bad loses ``loss`` in all.
        self._bad = False
        bad = min(weather.loss / 100 / LOST_IN_BURST, 0.99)
        self._leave_bad = 1 / RUN
        self._leave_good = self._leave_bad * bad / (1 - bad)

    def next(self, at: float) -> Fate:
        """Of a datagram that comes ``at`` s after the first one of audio."""
        weather, chance = self._weather, self._chance
        # Every number is drawn for every datagram: what happens to one does not shift what happens to the next.
        turn, loss, jitter, reorder, duplicate, again = (chance.random() for _ in range(6))
        if turn < (self._leave_bad if self._bad else self._leave_good):
            self._bad = not self._bad
        if at < weather.begin or (weather.end is not None and at >= weather.end):
            return ON_TIME
        share = weather.loss / 100
        if weather.bursts:
            share = LOST_IN_BURST if self._bad else 0.0
        if at < weather.begin + weather.blackout or loss < share:
            return Fate(())
        # Mostly a little, now and then all of it, and what is behind comes in one burst: as queues and WLANs have it.
        late = weather.jitter / 1000 * jitter**3
        overtaken = reorder < weather.reorder / 100
        delay = late + OVERTAKEN * overtaken
        copies = (delay, delay + 0.020 * again) if duplicate < weather.duplicate / 100 else (delay,)
        return Fate(copies, overtaken)
