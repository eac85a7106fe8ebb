"""How many calls one core carries: our server against a plain echo, side by side in one run.

Both servers run all the time, pinned to the same core; the callers have the others. They are put under load
in turn, so that whatever else the machine does meets both.
"""

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .watch import Watch, watcher

STARTED: Final = re.compile(r"serves on (https?://[^\s\"]+)")
SAID: Final = 50  # last lines of a server that are kept, to be told if it does not start

Measure = Callable[[str, Watch | None, int], dict[str, Any]]  # URL, server, calls → result of the load


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """What a server must keep to carry a number of calls: all of them connected, and these figures."""

    delay_p99_ms: float
    drift_ms: float  # no call may end later than it began by more
    missing_percent: float
    enhanced: bool

    def broken_by(self, result: dict[str, Any]) -> list[str]:
        """What of a load's ``result`` is out of bounds, in words; empty where it is carried."""
        found, calls = result["overall"], result["overall"]["calls"]
        reasons = [f"{calls[name]} calls {name}" for name in ("refused", "failed", "broken") if calls[name]]
        if found["delay_ms"] is None or found["missing_percent"] is None:
            return [*reasons, "nothing measured"]
        if found["delay_ms"]["p99"] > self.delay_p99_ms:
            reasons.append(f"delay p99 {found['delay_ms']['p99']:.0f} ms")
        if found["drift_ms"] > self.drift_ms:
            reasons.append(f"delay grows by {found['drift_ms']:.0f} ms")
        if found["missing_percent"] >= self.missing_percent:
            reasons.append(f"{found['missing_percent']:.2f} % missing")
        judged = found["enhanced"]
        if self.enhanced and judged["enhanced"] < max(1, judged["checked"]):
            missed = f"{judged['checked'] - judged['enhanced']} of {judged['checked']} not enhanced"
            reasons.append(missed if judged["checked"] else f"{missed}: too short, or nothing to take away")
        return reasons


OURS: Final = Bound(delay_p99_ms=30 + 10, drift_ms=10, missing_percent=0.1, enhanced=True)
# aiortc's jitter buffer holds a steady 80 ms; beside it the echo has the 40 ms that we have with all we do.
ECHO: Final = Bound(delay_p99_ms=80 + 40, drift_ms=20, missing_percent=0.1, enhanced=False)


class Search:
    """Looks for the largest number of calls that is carried: up through ``counts``, then between the two last."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._counts = sorted(set(counts))
        self.carried = 0
        self._failed: int | None = None

    def next(self) -> int | None:
        """The number to try; None when the answer is :attr:`carried`."""
        higher = [count for count in self._counts if count > self.carried]
        if self._failed is None:
            return higher[0] if higher else None
        return (self.carried + self._failed) // 2 if self._failed - self.carried > 1 else None

    @property
    def limited(self) -> bool:
        """Some number was not carried; otherwise more calls may be possible."""
        return self._failed is not None

    def tell(self, count: int, carried: bool) -> None:
        if carried:
            self.carried = max(self.carried, count)
        else:
            self._failed = count if self._failed is None else min(self._failed, count)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server to compare: the command that starts it, and what it must keep."""

    name: str
    command: tuple[str, ...]
    bound: Bound


def contestants(echo: Path, options: Sequence[str]) -> tuple[Contestant, Contestant]:
    """Our server with further ``options`` of ``percepnet serve``, and the script of an echo server."""
    ours = (sys.executable, "-m", "percepnet", "serve", "--host", "127.0.0.1", "--port", "0", *options)
    return (
        Contestant("percepnet", ours, OURS),
        Contestant("echo", (sys.executable, str(echo), "--port", "0"), ECHO),
    )


def compare(servers: Sequence[Contestant], counts: Sequence[int], measure: Measure) -> dict[str, Any]:
    """The largest number of calls that each carries, all loads it was put under, and the ratio of the first two.

    Ctrl-C ends it with what was found until then.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise RuntimeError(
            "a comparison pins processes to cores, which this system has no call for; Linux has"
        )
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise RuntimeError(
            "a comparison needs two cores: one for the server under load, others for the callers"
        )
    searches = {server.name: Search(counts) for server in servers}
    steps: list[dict[str, Any]] = []
    with running(servers[0], allowed[0]) as one, running(servers[1], allowed[0]) as two, pinned(allowed[1:]):
        addresses = dict(zip(searches, (one, two), strict=True))
        interrupted = False
        while not interrupted and any(search.next() for search in searches.values()):
            for server in servers:
                count = searches[server.name].next()
                if count is None or interrupted:
                    continue
                url, pid = addresses[server.name]
                step = measure(url, watcher(url, pid), count)
                interrupted = step["interrupted"]
                reasons = server.bound.broken_by(step)
                if not interrupted:
                    searches[server.name].tell(count, not reasons)
                steps.append({"server_name": server.name, "out_of_bounds": reasons, **step})
    most = {name: search.carried for name, search in searches.items()}
    first, second = most.values()
    return {
        "bounds": {server.name: asdict(server.bound) for server in servers},
        "carried": most,
        "ratio": round(first / second, 2) if second else None,
        "limited": {name: search.limited for name, search in searches.items()},
        "finished": not interrupted,
        "steps": steps,
    }


@contextmanager
def running(server: Contestant, core: int | None = None) -> Iterator[tuple[str, int]]:
    """``server`` in a process, pinned to ``core`` if one is given; yields the URL it prints, and its id.

    Its options are those of its command; what the environment says is for servers that people start.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PERCEPNET_")}
    # In a session of its own: Ctrl-C is for us, who stop it when its calls have ended.
    process = subprocess.Popen(
        server.command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    assert process.stderr is not None
    if core is not None:
        os.sched_setaffinity(process.pid, {core})  # before it has threads, which would keep their own
    said: deque[str] = deque(maxlen=SAID)
    reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)  # or the pipe fills up
    try:
        for line in process.stderr:
            said.append(line)
            if found := STARTED.search(line):
                reader.start()
                yield found[1], process.pid
                return
        raise RuntimeError(f"the server {server.name} did not start:\n{''.join(said)}")
    finally:
        process.terminate()
        process.wait()
        if reader.ident is not None:
            reader.join()
        process.stderr.close()


@contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """This process, and those it starts meanwhile, run on ``cores``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
