"""Whether a server gives back what calls held: many calls in a row, and its holdings on the way."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from .options import Load
from .run import Run

WARM: Final = 50  # calls after which what a server loads and caches once is there
MOST_GROWTH_MB: Final = 10.0  # of memory since then


def in_a_row(load: Load, measure: Callable[[Load], Run]) -> tuple[list[Run], dict[str, Any]]:
    """Make ``load.repeat`` calls in a row, with a stop after the first ``WARM``; the holdings by calls made.

    ``given_back``: files, threads and tasks are at the end no more than after the first calls, and memory no
    more than 10 MB above. None where that cannot be told: the server could not be seen, or calls were not made.
    """
    assert load.repeat is not None
    parts = [WARM, load.repeat - WARM] if load.repeat > WARM else [load.repeat]
    runs: list[Run] = []
    holdings: dict[str, Any] = {}
    made = 0
    for part in parts:
        found = measure(replace(load, repeat=part, seed=load.seed + len(runs)))
        runs.append(found)
        if found.before and not holdings:
            holdings["0"] = found.before.holdings()
        made += sum(call.outcome in ("ok", "broken") for call in found.calls)
        if found.after:
            holdings[str(made)] = found.after.holdings()
        if found.interrupted:
            break
    all_made = made == load.repeat * load.calls
    return runs, {
        "holdings": holdings,
        "given_back": _given_back(list(holdings.values())) if all_made else None,
    }


def _given_back(seen: list[dict[str, Any]]) -> bool | None:
    if len(seen) < 2:
        return None
    *_, then, now = seen
    counted = [name for name in ("fds", "threads", "tasks") if now[name] is not None]
    grown = now["memory_mb"] - then["memory_mb"]
    return grown <= MOST_GROWTH_MB and all(now[name] <= then[name] for name in counted)
