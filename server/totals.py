"""What calls have had together since the start. A call that ends takes nothing of it along: totals never fall."""

from collections import Counter
from collections.abc import Mapping
from typing import Self

from .figures import Histogram
from .track import DELAY_BOUNDS


class Totals:
    """Of any number of calls, each counted once."""

    def __init__(self) -> None:
        self._packets: Counter[str] = Counter()
        self._delay_s = Histogram(DELAY_BOUNDS)

    def add(self, packets: Mapping[str, int | None], delay_s: Histogram) -> None:
        """Count a call: its packets by what became of them, None where not known, and their delays."""
        self._packets.update({name: count for name, count in packets.items() if count is not None})
        self._delay_s.add(delay_s)

    def copy(self) -> Self:
        copied = type(self)()
        copied.add(self._packets, self._delay_s)
        return copied

    def as_dict(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"packets": dict(self._packets), "delay_s": self._delay_s.as_dict()}
