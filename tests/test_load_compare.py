"""Looking for the largest load, judging a load, and looking at processes."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest

from server.loadtest import summary
from server.loadtest.call import CallResult
from server.loadtest.callers import News
from server.loadtest.compare import ECHO, OURS, Contestant, Search, compare, running
from server.loadtest.leaks import in_a_row
from server.loadtest.options import Load
from server.loadtest.result import over_time, server
from server.loadtest.run import Run
from server.loadtest.watch import Sample, from_proc, from_stats, watcher


def outcome(**changes: Any) -> dict[str, Any]:
    """A load's result that is within all bounds, but for ``changes``."""
    calls = {"made": 4, "ok": 4, "refused": 0, "failed": 0, "broken": 0}
    overall = {
        "calls": calls,
        "delay_ms": {"p50": 33.0, "p95": 35.0, "p99": 38.0, "longest": 39.0},
        "drift_ms": 0.5,
        "missing_percent": 0.0,
        "enhanced": {"checked": 4, "enhanced": 4},
    }
    return {"interrupted": False, "overall": {**overall, **changes}}


@pytest.mark.parametrize("seed", range(50))
def test_the_search_finds_the_limit_and_tries_nothing_twice(seed: int) -> None:
    chance = Random(seed)
    counts = chance.sample(range(1, 100), chance.randrange(1, 12))
    limit = chance.randrange(0, 110)
    search, tried = Search(counts), []
    while (count := search.next()) is not None:
        tried.append(count)
        search.tell(count, count <= limit)
    assert len(tried) == len(set(tried))
    assert search.limited == (limit < max(counts))
    assert search.carried == (limit if search.limited else max(counts))
    assert len(tried) <= len(counts) + 8


def test_a_load_within_bounds_has_nothing_against_it() -> None:
    assert OURS.broken_by(outcome()) == []
    assert ECHO.broken_by(outcome(enhanced={"checked": 4, "enhanced": 0}, delay_ms={"p99": 119.0})) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"delay_ms": {"p99": 41.0}}, "delay p99 41 ms"),
        ({"delay_ms": None}, "nothing measured"),
        ({"missing_percent": 0.1}, "0.10 % missing"),
        ({"drift_ms": 11.0}, "grows by 11 ms"),
        ({"enhanced": {"checked": 4, "enhanced": 3}}, "1 of 4 not enhanced"),
        ({"enhanced": {"checked": 0, "enhanced": 0}}, "0 of 0 not enhanced"),
        ({"calls": {"refused": 2, "failed": 0, "broken": 1}}, "2 calls refused"),
    ],
)
def test_a_load_out_of_bounds_says_why(changes: dict[str, Any], reason: str) -> None:
    assert reason in "; ".join(OURS.broken_by(outcome(**changes)))


STARTS = (
    "import sys, time; print('x serves on http://127.0.0.1:1', file=sys.stderr, flush=True); time.sleep(60)"
)


def test_both_servers_are_put_under_load_in_turn() -> None:
    command = (sys.executable, "-c", STARTS)
    order: list[tuple[str, int]] = []

    def measure(url: str, watch: object, calls: int) -> dict[str, Any]:
        assert url == "http://127.0.0.1:1"
        name = "one" if len(order) % 2 == 0 and calls <= 8 else "two"
        order.append((name, calls))
        return outcome(missing_percent=0.0 if calls <= 5 else 1.0)

    servers = [Contestant("one", command, OURS), Contestant("two", command, OURS)]
    found = compare(servers, [2, 4, 8], measure)
    assert [calls for _, calls in order] == [2, 2, 4, 4, 8, 8, 6, 6, 5, 5]
    assert [step["server_name"] for step in found["steps"]] == ["one", "two"] * 5
    assert found["carried"] == {"one": 5, "two": 5}
    assert found["ratio"] == 1
    assert found["finished"]


def test_a_server_that_does_not_start_is_told_with_what_it_said() -> None:
    failing = Contestant("x", (sys.executable, "-c", "raise SystemExit('no such port')"), OURS)
    with pytest.raises(RuntimeError, match="no such port"), running(failing):
        pass


def process(root: Path, pid: int, parent: int, ticks: int, pages: int, threads: int, fds: int) -> None:
    fields = [
        "S",
        str(parent),
        *"0" * 9,
        str(ticks),
        str(ticks),
        "0",
        "0",
        "0",
        "0",
        str(threads),
        "0",
        "0",
        "0",
        str(pages),
    ]
    (root / str(pid) / "fd").mkdir(parents=True)
    (root / str(pid) / "stat").write_text(f"{pid} (a (name) 1) {' '.join(fields)}")
    for number in range(fds):
        (root / str(pid) / "fd" / str(number)).touch()


def test_a_process_counts_with_all_below_it(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 100, 1000, 2, 5)
    process(tmp_path, 11, 10, 50, 500, 3, 7)
    process(tmp_path, 12, 11, 25, 250, 1, 1)
    process(tmp_path, 13, 1, 999, 999, 99, 9)
    found = from_proc([10], tmp_path)
    assert found is not None
    assert found.cpu_s == pytest.approx(2 * 175 / 100)
    assert found.rss_bytes == 1750 * 4096
    assert (found.threads, found.fds) == (6, 13)
    assert found.calls is None
    assert from_proc([99], tmp_path) is None


def test_this_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        found = from_proc([child.pid])
        assert found is not None
        assert found.rss_bytes > 1 << 20
        assert found.threads == 1
        child.communicate(b"\n")
    assert from_proc([child.pid]) is None


@contextmanager
def stats(body: object) -> Iterator[str]:
    """A server that answers GET /stats with ``body``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/stats" else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


WORKER = {
    **{
        "worker": 0,
        "pid": 1,
        "cpu_s": 1.5,
        "rss_bytes": 100,
        "fds": 10,
        "threads": 4,
        "tasks": 20,
        "calls": 3,
    },
    **{"rated_calls": 24, "max_calls": 32, "shed": 1, "refused": 2, "batches": {"1": 10, "2": 5}},
    **{"step_ms": {"p50": 1.0, "p99": 2.0}, "draining": False},
}


def test_the_servers_own_figures_are_summed_up_over_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.loadtest.watch.ANSWER_TIME", 20)  # a busy machine
    idle = {**WORKER, "worker": 1, "batches": {"2": 1, "16": 4}, "step_ms": {"p50": None, "p99": None}}
    with stats({"workers": [WORKER, idle]}) as url:
        found = from_stats(url + "/")
        assert watcher(url, 1) is not None
    assert found is not None
    assert (found.cpu_s, found.calls, found.rated_calls, found.shed, found.refused) == (3.0, 6, 48, 2, 4)
    assert found.batches == {1: 10, 2: 6, 16: 4}
    assert found.step_p99_ms == 2.0


def test_the_process_before_the_workers_costs_too_and_what_no_worker_tells_is_unknown() -> None:
    worker = {name: WORKER[name] for name in ("cpu_s", "rss_bytes", "fds", "threads", "tasks", "calls")}
    front = {"pid": 2, "cpu_s": 0.5, "rss_bytes": 10, "fds": 1, "threads": 1, "tasks": 2}
    with stats({"workers": [worker], "front": front}) as url:
        found = from_stats(url)
    assert found is not None
    assert (found.cpu_s, found.rss_bytes, found.fds, found.threads, found.tasks) == (2.0, 110, 11, 5, 22)
    assert found.calls == 3
    assert found.rated_calls is found.shed is found.refused is found.step_p99_ms is None


@pytest.mark.parametrize("body", [{}, {"workers": [{}]}, {"workers": 3}, [], {"workers": [{"batches": []}]}])
def test_what_is_no_figures_is_not_taken_for_them(body: object) -> None:
    with stats(body) as url:
        assert from_stats(url) is None


def test_a_server_without_figures_is_looked_at_from_outside() -> None:
    with stats({"error": "not found"}) as url:
        assert from_stats(url) is None
        assert watcher(url) is None
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            watch = watcher(url, child.pid)
            assert watch is not None
            sample = watch()
            assert sample is not None
            assert sample.calls is None
            child.communicate(b"\n")
    assert from_stats(url) is None  # nobody listens there any more


@pytest.mark.parametrize(
    ("growth", "given_back"),
    [
        ({}, True),
        ({"fds": 1}, False),
        ({"tasks": 1}, False),
        ({"rss_bytes": 9 << 20}, True),
        ({"rss_bytes": 11 << 20}, False),
    ],
)
def test_what_200_calls_leave_behind_is_counted_from_the_50th(
    growth: dict[str, int], given_back: bool
) -> None:
    held = {"cpu_s": 0, "rss_bytes": 100 << 20, "fds": 10, "threads": 4, "tasks": 20}
    warm = {**held, "rss_bytes": 150 << 20, "fds": 12}  # what the first calls load does not count
    end = {**warm, **{name: warm[name] + more for name, more in growth.items()}}
    looks = iter([held, warm, warm, end])
    asked = []

    def measure(load: Load) -> Run:
        asked.append(load.repeat)
        before, after = Sample(at=0, **next(looks)), Sample(at=1, **next(looks))
        assert load.repeat is not None
        made = [CallResult(caller=0, number=n, outcome="ok", began=0) for n in range(load.repeat)]
        return Run(load, before=before, after=after, calls=made)

    _, leaks = in_a_row(Load(url="", repeat=200), measure)
    assert asked == [50, 150]
    assert list(leaks["holdings"]) == ["0", "50", "200"]
    assert leaks["given_back"] is given_back


def test_calls_that_were_not_made_tell_nothing_of_what_they_leave() -> None:
    held = Sample(at=0, cpu_s=0, rss_bytes=100 << 20, fds=10, threads=4, tasks=20)

    def measure(load: Load) -> Run:
        outcomes = ["ok", "broken", "refused", "failed"]
        calls = [
            CallResult(caller=0, number=n, outcome=outcome, began=0) for n, outcome in enumerate(outcomes)
        ]
        return Run(load, before=held, after=held, calls=calls)

    _, leaks = in_a_row(Load(url="", repeat=4), measure)
    assert list(leaks["holdings"]) == ["0", "2"]
    assert leaks["given_back"] is None
    assert "not all calls were made" in summary.held(leaks)


def test_a_worker_that_goes_takes_no_processor_time_back() -> None:
    load = Load(url="", calls=2, ramp=100, seconds=10)
    run = Run(load, begin=100.0, end=112.0)
    used = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 1.2, 1.7, 2.2, 2.7, 3.2, 3.7]  # one of two goes in the sixth second
    for second, cpu in enumerate(used):
        run.samples.append(Sample(at=100 + second, cpu_s=cpu, rss_bytes=1, fds=1, threads=1))
        run.news.append((100 + second, News(live=2, ended=0, refused=0, failed=0)))
    run.before = run.samples[0]
    found = server(run)
    assert found is not None
    assert (found["cpu_percent"], found["cpu_percent_per_call"]) == (50, 25)
    assert [percent for _, percent in over_time(run)["cpu_percent"]] == [50.0] * 10


@pytest.mark.parametrize(
    ("limited", "finished", "said"),
    [
        ({"percepnet": True, "echo": True}, True, "percepnet 8, echo 4; 2.0 times as many\n"),
        (
            {"percepnet": False, "echo": True},
            True,
            "percepnet at least 8, echo 4; at least 2.0 times as many\n",
        ),
        (
            {"percepnet": True, "echo": False},
            True,
            "percepnet 8, echo at least 4; at most 2.0 times as many\n",
        ),
        ({"percepnet": False, "echo": False}, False, "percepnet at least 8, echo at least 4; interrupted\n"),
    ],
)
def test_a_comparison_says_no_more_than_was_found(
    limited: dict[str, bool], finished: bool, said: str
) -> None:
    found = {"carried": {"percepnet": 8, "echo": 4}, "ratio": 2.0, "limited": limited, "finished": finished}
    assert said in summary.verdict({**found, "bounds": {"percepnet": asdict(OURS), "echo": asdict(ECHO)}})


def test_the_environment_is_not_for_servers_that_a_tool_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPNET_LOG_FORMAT", "json")
    monkeypatch.setenv("PERCEPNET_TOKENS", "secret")
    names = "[name for name in __import__('os').environ if name.startswith('PERCEPNET')]"
    says = f"print('serves on http://x/' + str(len({names})), file=sys.stderr, flush=True)"
    code = f"import sys, time; {says}; time.sleep(60)"
    with running(Contestant("x", (sys.executable, "-c", code), OURS)) as (url, _):
        assert url == "http://x/0"


def test_a_line_of_json_tells_the_address_too() -> None:
    code = 'import sys, time; print(\'{"message": "serves on http://x:1"}\', file=sys.stderr, flush=True)'
    with running(Contestant("x", (sys.executable, "-c", f"{code}; time.sleep(60)"), OURS)) as (url, _):
        assert url == "http://x:1"


def test_the_server_costs_what_it_grew_by_while_all_calls_were_there() -> None:
    """Ten calls at 2 per second: all are due after 4.5 s, and connected 2 s later. Before that it cost far more."""
    load = Load(url="", calls=10, ramp=2, seconds=10)
    run = Run(load, begin=100.0, end=114.5)
    run.before = Sample(
        at=99, cpu_s=1, rss_bytes=100 << 20, fds=9, threads=3, calls=0, refused=5, batches={1: 7}
    )
    for second in range(14):
        busy = min(second, 7) * 0.9 + max(0, second - 7) * 0.5  # cores
        batches = {1: 7 + second, 10: 50 * second, 12: 0}
        seen = {"rss_bytes": (120 if second < 13 else 110) << 20, "fds": 29, "threads": 13, "calls": 10}
        run.samples.append(
            Sample(at=100 + second, cpu_s=1 + busy, refused=5, shed=second % 3, batches=batches, **seen)
        )
        run.news.append(
            (100 + second, News(live=10 if second >= 5 else 2 * second, ended=0, refused=0, failed=0))
        )
    run.after = Sample(
        at=116, cpu_s=9, rss_bytes=101 << 20, fds=9, threads=3, calls=0, refused=7, batches={1: 21, 10: 700}
    )
    found = server(run)
    assert found is not None
    assert (found["cpu_percent"], found["cpu_percent_per_call"], found["calls"]) == (50, 5, 10)
    assert found["memory_mb_per_call"] == 2
    assert (found["refused"], found["most_shed"]) == (2, 2)
    assert found["batches"] == {1: 14, 10: 700}
    assert found["before"]["fds"] == found["after"]["fds"] == 9
    assert server(Run(load)) is None
