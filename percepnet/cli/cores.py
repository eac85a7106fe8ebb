"""How many cores there are to use, in a container too."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores to use: :func:`available_time`, rounded down; at least 1."""
    return max(1, int(available_time()))


def available_time() -> float:
    """Cores' worth of time: those that this process may run on, or less by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in (_of_version_2(), _of_version_1()) if quota is not None]
    return min([cores, *quotas])


def _of_version_2() -> float | None:
    """Cores' worth of time that this process's control group allows (``docker run --cpus``); None for any."""
    try:
        own = next(line[3:] for line in OWN.read_text().splitlines() if line.startswith("0::"))
        # without a namespace of its own a container sees its group at the top
        inner = CGROUPS / own.lstrip("/")
        limit, period = ((inner if inner.is_dir() else CGROUPS) / "cpu.max").read_text().split()
        return int(limit) / int(period)
    except (OSError, StopIteration, ValueError):  # no such groups, or "max"
        return None


def _of_version_1() -> float | None:
    try:
        limit, period = (
            int((CGROUPS / "cpu" / f"cpu.cfs_{of}_us").read_text()) for of in ("quota", "period")
        )
    except (OSError, ValueError):
        return None
    return limit / period if limit > 0 else None
