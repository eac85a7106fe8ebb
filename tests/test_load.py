"""``percepnet load`` against real servers: ours, and the plain echo."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from pages import Page

from percepnet.cli import INTERRUPTED, main
from percepnet.cli.measuring import ECHO
from server.loadtest.callers import tell
from server.loadtest.charts import bars, lines
from server.loadtest.compare import OURS, contestants, running

MOST = 2  # calls at once that our server takes


@pytest.fixture(scope="module")
def ours() -> Iterator[tuple[str, int]]:
    server, _ = contestants(ECHO, ["--max-calls", str(MOST)])
    with running(server) as started:
        yield started


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[str, int]]:
    _, server = contestants(ECHO, [])
    with running(server) as started:
        yield started


def load(
    capsys: pytest.CaptureFixture[str], server: tuple[str, int], *arguments: str, status: int = 0
) -> dict[str, Any]:
    """What ``percepnet load --json`` finds."""
    url, pid = server
    assert main(["load", url, "--pid", str(pid), "--json", "--quiet", *arguments]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_calls_come_back_enhanced_and_cost_something(
    capsys: pytest.CaptureFixture[str], ours: tuple[str, int], tmp_path: Path
) -> None:
    report = tmp_path / "load.html"
    found = load(
        capsys,
        ours,
        *("--calls", "1,2", "--seconds", "8", "--ramp", "4", "--loss", "5", "--jitter", "15"),
        *("--processes", "2", "--report", str(report)),
    )
    for calls, step in zip((1, 2), found["steps"], strict=True):
        overall = step["overall"]
        assert overall["calls"] == {"made": calls, "ok": calls, "refused": 0, "failed": 0, "broken": 0}
        assert overall["enhanced"] == {"checked": calls, "enhanced": calls}
        assert 30 < overall["delay_ms"]["p50"] <= overall["delay_ms"]["p95"] <= overall["delay_ms"]["p99"]
        assert overall["setup_ms"]["p50"] > 0
        packets = overall["packets"]
        assert 0.02 < packets["lost_on_purpose"] / packets["sent"] < 0.1
        assert 0 < packets["returned"] <= packets["sent"]
        assert step["server"]["cpu_percent_per_call"] > 0
        assert step["server"]["before"]["fds"] > 0
        assert step["callers"]["cpu_percent_per_call"] > 0
        assert [call["caller"] for call in step["calls"]] == list(range(calls))
        assert max(live for _, live in step["over_time"]["calls"]) == calls
    assert_page(report.read_text(encoding="utf-8").replace(ours[0], ""))


def assert_page(text: str) -> None:
    """All tags are closed, nothing comes from elsewhere, and lines have been drawn."""
    found = Page(text)
    assert found.sources == []
    drawn = [shape for shape in found.shapes if shape.get("class") == "line c0" and shape["d"]]
    assert len(drawn) >= 6  # cost, delay and loss by calls; calls, delay and loss over time
    assert "nan" not in text
    assert "http" not in text


def test_an_echo_is_not_taken_for_enhanced(capsys: pytest.CaptureFixture[str], echo: tuple[str, int]) -> None:
    (step,) = load(capsys, echo, "--seconds", "8")["steps"]
    assert step["overall"]["calls"]["ok"] == 1
    assert step["overall"]["enhanced"] == {"checked": 1, "enhanced": 0}
    (call,) = step["calls"]
    assert abs(call["speech_db"]) < 3
    assert abs(call["pauses_db"]) < 3
    assert call["delay_ms"]["p50"] > 60  # aiortc's jitter buffer
    assert step["server"]["cpu_percent_per_call"] > 0
    assert OURS.broken_by(step)


def test_calls_too_many_are_refused_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], ours: tuple[str, int]
) -> None:
    (step,) = load(capsys, ours, "--calls", str(MOST + 2), "--ramp", "2", "--seconds", "4")["steps"]
    outcomes = [call["outcome"] for call in step["calls"]]
    assert sorted(outcomes) == ["ok"] * MOST + ["refused"] * 2
    refused = step["calls"][outcomes.index("refused")]
    assert "503" in refused["reason"]
    assert refused["packets"]["sent"] == 0
    assert refused["missing_percent"] is None


def test_callers_come_back_when_told_so(capsys: pytest.CaptureFixture[str], ours: tuple[str, int]) -> None:
    """One more than fit, who toggle, hang up after 1.5 s and call again; some are refused and try again."""
    habits = ("--churn", "1.5", "--toggle", "0.4", "--retry", "--control-channel")
    (step,) = load(capsys, ours, "--calls", "3", "--ramp", "10", "--seconds", "12", *habits)["steps"]
    calls = step["overall"]["calls"]
    assert calls["refused"] > 0
    assert calls["ok"] >= 6
    assert calls["failed"] == calls["broken"] == 0
    assert step["overall"]["toggles"] > 0
    tries = Counter(call["caller"] for call in step["calls"])
    assert sorted(tries) == [0, 1, 2]
    assert min(tries.values()) >= 2  # whoever was refused has tried again, too
    assert max(live for _, live in step["over_time"]["calls"]) <= MOST


def test_calls_in_a_row_leave_nothing(capsys: pytest.CaptureFixture[str], ours: tuple[str, int]) -> None:
    found = load(capsys, ours, "--repeat", "6", "--seconds", "0.5")
    (step,) = found["steps"]
    assert step["overall"]["calls"]["ok"] == 6
    before, after = found["in_a_row"]["holdings"].values()
    assert list(found["in_a_row"]["holdings"]) == ["0", "6"]
    assert after["fds"] <= before["fds"]


def test_results_of_hundreds_of_calls_pass_a_pipe_that_an_event_loop_has_left_non_blocking() -> None:
    ours, theirs = Pipe()
    os.set_blocking(theirs.fileno(), False)
    results = [bytes(1000)] * 2000

    def send() -> None:
        with theirs:
            tell(theirs, results)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        assert ours.recv() == results
        sending.result()


def test_ctrl_c_hangs_up_and_still_reports(ours: tuple[str, int]) -> None:
    url, _ = ours
    command = [sys.executable, "-m", "percepnet", "load", url, "--calls", "2", "--seconds", "600", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: calls(url) == 2 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
        out, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    (step,) = json.loads(out)["steps"]
    assert step["interrupted"]
    assert step["overall"]["calls"]["made"] == 2
    until(lambda: calls(url) == 0)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that announces itself in no other way."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def calls(url: str) -> int:
    with urllib.request.urlopen(url + "/healthz", timeout=20) as response:
        return int(json.load(response)["calls"])


def test_a_call_whose_server_dies_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's own connection knows of it much later."""
    monkeypatch.setattr("server.loadtest.call.DEAD", 1.0)
    server, _ = contestants(ECHO, ["--workers", "1"])
    with running(server) as (url, pid), ThreadPoolExecutor() as pool:
        loading = pool.submit(load, capsys, (url, pid), "--calls", "1", "--seconds", "4", status=1)
        until(lambda: heard(url) > 20 or loading.done())
        os.kill(pid, signal.SIGKILL)
        (step,) = loading.result()["steps"]
    assert step["overall"]["calls"] == {"made": 1, "ok": 0, "refused": 0, "failed": 0, "broken": 1}
    assert re.match("nothing came back in the last [1-5]", step["calls"][0]["reason"])


def test_what_is_told_to_end_leaves_no_server_behind() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [sys.executable, "-m", "percepnet", "soak", "--minutes", "5", "--quiet"]
    told += ["--server-options", f"--port {port}"]
    with subprocess.Popen(told, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        until(lambda: answers(f"http://127.0.0.1:{port}") or process.poll() is not None)
        started = children(process.pid)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert started
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert not answers(f"http://127.0.0.1:{port}")


def answers(url: str) -> bool:
    try:
        return calls(url) >= 0
    except OSError:
        return False


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def heard(url: str) -> int:
    """Packets that its only call has got back."""
    with urllib.request.urlopen(url + "/stats", timeout=20) as response:
        (worker,) = json.load(response)["workers"]
    return sum(worker["delay_s"]["counts"])


def test_nobody_there_is_a_failure_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "http://127.0.0.1:9", "--seconds", "0.5", "--quiet"]) == 1
    told = capsys.readouterr()
    assert re.search(r"failed: .*127\.0\.0\.1", told.out)
    assert "http://127.0.0.1:9/stats does not answer" in told.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give the URL"),
        (["http://x", "--compare"], "give the URL"),
        (["foo"], "'foo' is no URL of a server; allowed are those like http://"),
        (["http://x", "--server-options=--port 1"], "of a server that is started; http://x runs already"),
        (["--compare", "/no/such/script"], "no echo server"),
        (["http://x", "--repeat", "9", "--calls", "1,2"], "one number of calls"),
        (["--compare", "--pid", "1"], "--pid 1: of a running server"),
    ],
)
def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    assert main(["load", *arguments]) == 1
    assert reason in capsys.readouterr().err


def test_both_servers_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    assert main(["load", "--compare", "--calls", "1", "--seconds", "8", "--json", "--quiet"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert [step["server_name"] for step in comparison["steps"]] == ["percepnet", "echo"]
    assert set(comparison["comparison"]["carried"]) == {"percepnet", "echo"}
    ours, plain = (step["overall"]["enhanced"] for step in comparison["steps"])
    assert ours == {"checked": 1, "enhanced": 1}
    assert plain == {"checked": 1, "enhanced": 0}


def test_charts_have_room_for_all_their_points() -> None:
    drawn = lines({"a": [(1, 0.5), (40, 7.3), (20, None), (30, 3.0)], "b<": [(5, 12.0)]}, "x", "y", 10)
    assert "b&lt;" in drawn
    assert "nothing" in lines({"a": [(1, None)]}, "x", "y")
    assert "nothing" in bars({}, "x", "y")
    for svg in (drawn, bars({1: 5, 16: 1000}, "x", "y"), lines({"a": [(0, 0.0)]}, "x", "y")):
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", svg):
            assert 0 <= float(x) <= 560
            assert 0 <= float(y) <= 250
