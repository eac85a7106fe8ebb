"""What the process uses, and what its engine's batches cost: the figures of ``GET /stats``."""

import asyncio
import os
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

RECENT_PACKETS: Final = 500  # 10 s: what the percentiles of the delay are taken over
KEPT_STEPS: Final = 1000  # what the percentiles of the step time are taken over
LAG_INTERVAL: Final = 0.05  # s between looks at the event loop
KEPT_LAGS: Final = 11  # half a second; a median of so many ignores single stalls
STEP_BOUNDS: Final = (0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1)  # s
# s of time.monotonic() at which the process began: it has been busy with imports since.
BEGAN: Final = time.monotonic() - time.process_time()


class Histogram:
    """How many values were up to each of ``bounds``, how many above all, and their sum.

    Unlike percentiles, those of several processes can be summed. One thread writes, any reads.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def note(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add(self, other: "Histogram") -> None:
        """Count all that another one of the same bounds has."""
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]
        self._sum += other._sum

    def as_dict(self) -> dict[str, object]:
        """``counts[n]`` values are in ``(bounds[n - 1], bounds[n]]``, the last ones above all bounds."""
        return {"bounds": list(self._bounds), "counts": self._counts.copy(), "sum": round(self._sum, 6)}


class RecentDelays:
    """Of the last packets."""

    def __init__(self) -> None:
        self._delays: deque[float] = deque(maxlen=RECENT_PACKETS)

    def note(self, seconds: float) -> None:
        self._delays.append(seconds)

    def percentiles_ms(self) -> tuple[float, float] | None:
        """Median and 99th percentile; None before the first packet."""
        if not self._delays:
            return None
        # Asked five times a second by each call: np.percentile takes ten times as long.
        ordered = sorted(self._delays)
        last = len(ordered) - 1
        return ordered[round(last * 0.5)] * 1e3, ordered[round(last * 0.99)] * 1e3


class BatchFigures:
    """How many batches of each size, and how long the last ones took. One thread writes, any reads."""

    def __init__(self, largest: int) -> None:
        self._counts = np.zeros(largest + 1, np.int64)
        self._steps_ms = np.zeros(KEPT_STEPS)
        self._steps = 0
        self.step_s = Histogram(STEP_BOUNDS)

    def note(self, size: int, step_ms: float) -> None:
        self._counts[size] += 1
        self._steps_ms[self._steps % KEPT_STEPS] = step_ms
        self._steps += 1
        self.step_s.note(step_ms / 1e3)

    def counts(self) -> dict[str, int]:
        """Batches since start by size; sizes that never came are left out."""
        counts = self._counts.copy()
        return {str(size): int(counts[size]) for size in np.flatnonzero(counts)}

    def step_ms(self) -> dict[str, float | None]:
        """Percentiles over the last batches; None before the first."""
        recent = self._steps_ms[: min(self._steps, KEPT_STEPS)].copy()
        if not len(recent):
            return {"p50": None, "p99": None}
        p50, p99 = np.percentile(recent, [50, 99])
        return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


class LoopLag:
    """How late an event loop runs its timers: what a packet waits for before it reaches the engine."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lags = np.zeros(KEPT_LAGS)
        self._ticks = 0
        self._median = 0.0
        self._due = loop.time() + LAG_INTERVAL
        self._timer = loop.call_at(self._due, self._tick)

    def __call__(self) -> float:
        """Median of the last half second, s; from any thread."""
        return self._median

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        now = self._loop.time()
        self._lags[self._ticks % KEPT_LAGS] = max(0.0, now - self._due)
        self._ticks += 1
        self._median = float(np.median(self._lags))
        self._due = now + LAG_INTERVAL
        self._timer = self._loop.call_at(self._due, self._tick)


def process_figures() -> dict[str, object]:
    """Age, processor time since start, memory, descriptors, threads and tasks; in the event loop's thread.

    What the system does not tell is None: memory, descriptors and threads, those of libraries too, come from ``/proc``.
    """
    return {
        "pid": os.getpid(),
        "age_s": round(time.monotonic() - BEGAN, 6),
        "cpu_s": round(time.process_time(), 3),
        "rss_bytes": _told(
            lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        ),
        "fds": _told(lambda: len(os.listdir("/proc/self/fd")) - 1),  # one is the listing's own
        "threads": _told(lambda: len(os.listdir("/proc/self/task"))),
        "tasks": len(asyncio.all_tasks()),
    }


def _told(ask: Callable[[], int]) -> int | None:
    try:
        return ask()
    except OSError:
        return None
