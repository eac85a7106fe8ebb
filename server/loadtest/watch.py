"""The server while it is under load: what it says of itself, or what Linux says of its processes."""

import json
import os
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from server.access import headers

ANSWER_TIME: Final = 2.0  # s that GET /stats may take
HELD: Final = ("cpu_s", "rss_bytes", "fds", "threads", "tasks")  # by every process of the server
CARRIED: Final = ("calls", "rated_calls", "shed", "refused")  # by its workers


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A look at all processes of a server. None for what cannot be seen from outside."""

    at: float  # s of time.monotonic()
    cpu_s: float
    rss_bytes: int
    fds: int
    threads: int
    tasks: int | None = None
    calls: int | None = None
    rated_calls: int | None = None
    shed: int | None = None
    refused: int | None = None
    step_p99_ms: float | None = None
    batches: Mapping[int, int] = field(default_factory=dict)  # how many of each size since start

    def holdings(self) -> dict[str, float | int | None]:
        """What a call that is not freed would leave behind."""
        return {
            "fds": self.fds,
            "threads": self.threads,
            "tasks": self.tasks,
            "memory_mb": round(self.rss_bytes / 2**20, 1),
            "calls": self.calls,
        }


Watch = Callable[[], Sample | None]  # None where there is no answer at the moment


def watcher(url: str, pid: int | None = None, token: str | None = None) -> Watch | None:
    """Through ``GET /stats`` of ``url``, else through /proc for the tree of ``pid``; None where neither works."""
    if from_stats(url, token) is not None:
        return lambda: from_stats(url, token)
    if pid is not None and from_proc([pid]) is not None:
        return lambda: from_proc([pid])
    return None


def from_stats(url: str, token: str | None = None) -> Sample | None:
    """What ``GET /stats`` says, summed up over the workers and the process before them, where there is one."""
    try:
        request = urllib.request.Request(url.rstrip("/") + "/stats", headers=headers(token))
        with urllib.request.urlopen(request, timeout=ANSWER_TIME) as response:
            body = json.load(response)
        workers: list[dict[str, Any]] = body["workers"]
        processes = [*workers, *([body["front"]] if body.get("front") else [])]
        batches: Counter[int] = Counter()
        for worker in workers:
            batches.update({int(size): count for size, count in worker.get("batches", {}).items()})
        told: dict[str, Any] = {name: sum(process[name] for process in processes) for name in HELD}
        told |= {name: _sum(workers, name) for name in CARRIED}
        steps = [worker["step_ms"]["p99"] for worker in workers if worker.get("step_ms")]
        return Sample(
            at=time.monotonic(),
            step_p99_ms=max((step for step in steps if step is not None), default=None),
            batches=dict(batches),
            **told,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _sum(workers: list[dict[str, Any]], name: str) -> int | None:
    """None where no worker tells."""
    known = [worker[name] for worker in workers if worker.get(name) is not None]
    return sum(known) if known else None


def from_proc(pids: Collection[int], root: Path = Path("/proc")) -> Sample | None:
    """What Linux says of the processes ``pids`` and all below them; None where these have gone, or no Linux is.

    Processor time of children that have ended counts with their parent, once it has waited for them.
    """
    at = time.monotonic()
    stats = {int(folder.name): _stat(folder) for folder in root.glob("[0-9]*")}
    family, waiting = set[int](), [pid for pid in pids if stats.get(pid)]
    while waiting:
        family.add(parent := waiting.pop())
        waiting += [pid for pid, stat in stats.items() if stat and int(stat[1]) == parent]
    if not family:
        return None
    members = [stats[pid] for pid in family]
    # proc_pid_stat(5); the list begins with its third field
    return Sample(
        at=at,
        cpu_s=sum(int(time) for stat in members for time in stat[11:15]) / os.sysconf("SC_CLK_TCK"),
        rss_bytes=sum(int(stat[21]) for stat in members) * os.sysconf("SC_PAGE_SIZE"),
        fds=sum(_count(root / str(pid) / "fd") for pid in family),
        threads=sum(int(stat[17]) for stat in members),
    )


def _stat(process: Path) -> list[str]:
    """The fields after the name, which may hold anything; empty for a process that has gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _count(folder: Path) -> int:
    try:
        return len(os.listdir(folder))
    except OSError:
        return 0
