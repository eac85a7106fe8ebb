"""The figures of a load, in plain types ready for JSON."""

from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .call import CallResult
from .hearing import percentiles
from .run import Run
from .watch import Sample

CONNECTING: Final = 2.0  # s after the last call was due from which the cost of a call is taken
# ms, p99 of the worst caller, that packets may leave late for figures to mean something
MOST_TARDY: Final = 20.0
OUTCOMES: Final = ("ok", "refused", "failed", "broken")


def result(run: Run) -> dict[str, Any]:
    """Of a whole run: ``options``, ``overall``, ``server``, ``callers``, ``over_time`` and every one of ``calls``."""
    return {
        "options": {
            **{name: value for name, value in asdict(run.load).items() if name != "token"},
            "weather": str(run.load.weather),
        },
        "seconds": round(run.end - run.begin, 1),
        "interrupted": run.interrupted,
        "overall": overall(run.calls),
        "server": server(run),
        "callers": callers(run),
        "over_time": over_time(run),
        "calls": [call.report(run.begin) for call in run.calls],
    }


def overall(calls: list[CallResult]) -> dict[str, Any]:
    """The calls as one: counts, set-up time, packets, what is missing, delay, and how many are enhanced."""
    outcomes = Counter(call.outcome for call in calls)
    measured = [call.delays for call in calls if call.delays is not None]
    asked = sum(delays.asked for delays in measured)
    missing = sum(len(delays.missing_at) for delays in measured)
    judged = [call.enhanced for call in calls if call.enhanced is not None]
    setups = np.array([call.setup_ms for call in calls if call.setup_ms is not None])
    return {
        "calls": {"made": len(calls), **{name: outcomes[name] for name in OUTCOMES}},
        "setup_ms": percentiles(setups),
        "packets": {
            "sent": sum(call.sent for call in calls),
            "lost_on_purpose": sum(call.lost for call in calls),
            "returned": sum(call.returned for call in calls),
        },
        "missing_percent": round(100 * missing / asked, 4) if asked else None,
        "worst_call_missing_percent": max((round(one.missing_percent, 4) for one in measured), default=None),
        "delay_ms": percentiles(np.concatenate([one.ms for one in measured])) if measured else None,
        "drift_ms": max((round(one.drift_ms, 2) for one in measured if len(one.ms)), default=None),
        "enhanced": {"checked": len(judged), "enhanced": sum(judged)},
        "toggles": sum(call.toggles for call in calls),
    }


def server(run: Run) -> dict[str, Any] | None:
    """What the calls cost the server, and how it was before and after; None where it could not be seen."""
    cost = _cost(run, run.samples)
    before, after = run.before, run.after
    if cost is None or before is None:
        return None
    samples = [before, *run.samples, *([after] if after else [])]
    most = max(sample.rss_bytes for sample in samples)
    live = _live(run, run.begin, run.end)
    found: dict[str, Any] = {
        **cost,
        "memory_mb_per_call": round((most - before.rss_bytes) / 2**20 / live.max(), 2)
        if live.max()
        else None,
        "before": before.holdings(),
        "after": after and after.holdings(),
        "recovery_s": None if run.recovery_s is None else round(run.recovery_s, 2),
    }
    if before.calls is not None:  # it has told more than Linux knows
        last = samples[-1]
        found |= {
            "rated_calls": last.rated_calls,
            "most_shed": max(sample.shed or 0 for sample in samples),
            "refused": (last.refused or 0) - (before.refused or 0),
            "step_p99_ms": max((sample.step_p99_ms or 0.0 for sample in run.samples), default=0.0),
            "batches": _batches(before, last),
        }
    return found


def callers(run: Run) -> dict[str, Any]:
    """What the callers cost themselves, and whether they kept up: figures are only as good as they are on time."""
    cost = _cost(run, run.callers) or {"cpu_percent": None, "cpu_percent_per_call": None, "calls": None}
    tardy = max((call.tardiness_ms for call in run.calls), default=0.0)
    return {**cost, "tardiness_p99_ms": round(tardy, 2), "on_time": tardy <= MOST_TARDY}


def over_time(run: Run) -> dict[str, list[Any]]:
    """Second by second: calls, refusals, delay, audio missing, the server's processor time and calls it shed."""
    seconds = np.arange(int(np.ceil(run.end - run.begin)))
    measured = [call.delays for call in run.calls if call.delays is not None]
    at = np.concatenate([one.at for one in measured]) - run.begin if measured else np.zeros(0)
    ms = np.concatenate([one.ms for one in measured]) if measured else np.zeros(0)
    gone = np.concatenate([one.missing_at for one in measured]) - run.begin if measured else np.zeros(0)
    inside = [ms[(at >= second) & (at < second + 1)] for second in seconds]
    missing = np.histogram(gone, np.arange(len(seconds) + 1))[0]
    counted = np.array([len(part) for part in inside]) + missing
    share = 100 * missing / np.maximum(counted, 1)
    return {
        "second": seconds.tolist(),
        "delay_p50_ms": [_rounded(np.median(part)) if len(part) else None for part in inside],
        "delay_p99_ms": [_rounded(np.percentile(part, 99)) if len(part) else None for part in inside],
        "missing_percent": [
            _rounded(part) if count else None for part, count in zip(share, counted, strict=True)
        ],
        "calls": [[_rounded(time - run.begin), news.live] for time, news in run.news],
        "refused": [[_rounded(time - run.begin), news.refused] for time, news in run.news],
        "cpu_percent": [
            [_rounded(b.at - run.begin), _rounded(100 * (b.cpu_s - a.cpu_s) / (b.at - a.at))]
            for a, b in _steps(run.samples)
        ],
        "shed": [
            [_rounded(sample.at - run.begin), sample.shed]
            for sample in run.samples
            if sample.shed is not None
        ],
    }


def _cost(run: Run, samples: list[Sample]) -> dict[str, Any] | None:
    """Processor time while all calls are there: in all, and per call; None where it was not seen."""
    steady = run.begin + run.load.ramp_time + CONNECTING
    steps = _steps([sample for sample in samples if steady <= sample.at <= run.end]) or _steps(samples)
    if not steps:
        return None
    cores = sum(b.cpu_s - a.cpu_s for a, b in steps) / sum(b.at - a.at for a, b in steps)
    calls = _live(run, steps[0][0].at, steps[-1][1].at).mean()
    return {
        "cpu_percent": round(100 * cores, 1),
        "cpu_percent_per_call": round(100 * cores / calls, 2) if calls else None,
        "calls": round(float(calls), 1),
    }


def _steps(samples: list[Sample]) -> list[tuple[Sample, Sample]]:
    """Neighbours between which no process has gone, and taken with it what it had used of the processor."""
    return [(a, b) for a, b in pairwise(samples) if b.cpu_s >= a.cpu_s]


def _live(run: Run, start: float, end: float) -> NDArray[Any]:
    return np.array([news.live for at, news in run.news if start <= at <= end] or [0])


def _batches(before: Sample, after: Sample) -> dict[int, int]:
    """How many batches of each size between two samples."""
    grown = {size: count - before.batches.get(size, 0) for size, count in after.batches.items()}
    return {size: count for size, count in sorted(grown.items()) if count > 0}


def _rounded(value: Any) -> float:
    return round(float(value), 2)
