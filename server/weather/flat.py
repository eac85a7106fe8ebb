"""Whether what was measured for long has grown: a slope that outliers do not move, against a stated allowance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

LEAST_POINTS: Final = 3  # of which a slope can be taken
MOST_POINTS: Final = 2000  # a slope of more is that of every so manieth: pairs are their square

Course = Sequence[tuple[float, float | None]]  # s, value; None where it was not to be had


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that shall not grow by more than ``allowance`` from the middle of a soak to its end."""

    name: str
    unit: str
    allowance: float


def growth(course: Course) -> float | None:
    """By how much the second half of ``course`` rises; None where too little of it is known.

    The slope is that of Theil and Sen, the median over all pairs of points: up to 29 % of them may be anything.
    The first half is left out: caches fill, and the allocator has not yet seen its busiest moment.
    """
    known = [(at, value) for at, value in course if value is not None]
    if not known:
        return None
    middle = (course[0][0] + course[-1][0]) / 2
    half = np.array([point for point in known if point[0] >= middle])
    half = half[:: -(-len(half) // MOST_POINTS) or 1]
    if len(half) < LEAST_POINTS:
        return None
    at, value = half.T
    first, second = np.triu_indices(len(half), 1)
    slope = float(np.median((value[second] - value[first]) / (at[second] - at[first])))
    return slope * float(at[-1] - at[0])


def judged(quantity: Quantity, course: Course) -> dict[str, Any]:
    """The verdict on ``course`` in plain types; ``flat`` is None where there is none."""
    rise = growth(course)
    known = [value for _, value in course if value is not None]
    return {
        "unit": quantity.unit,
        "median": round(float(np.median(known)), 2) if known else None,
        "growth": None if rise is None else round(rise, 2),
        "allowance": quantity.allowance,
        "flat": None if rise is None else rise <= quantity.allowance,
        "over_time": [[round(at, 1), value] for at, value in course],
    }
