"""``GET /stats`` and offers that are refused for lack of room."""

import asyncio
import os

import numpy as np
import pytest
from caller import Caller
from calling import Server, given_back, holdings, offered, packets, serving, until

from server.engine import Engine
from server.figures import KEPT_STEPS, BatchFigures, LoopLag

SILENCE = np.zeros(960, np.int16)


async def stats(server: Server) -> dict[str, object]:
    async with server.http.get("/stats") as answer:
        assert answer.status == 200
        (worker,) = (await answer.json())["workers"]
    return worker


async def refused(server: Server) -> str:
    """Offer a call that must be refused as it should; returns the reason."""
    async with server.http.post("/offer", json=await offered()) as answer:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        return (await answer.json())["error"]


@pytest.mark.parametrize(("rated", "most", "limit"), [(1, 8, 1), (8, 2, 2)])
async def test_calls_over_the_rated_load_or_the_hard_limit_are_refused_and_leave_nothing(
    rated: int, most: int, limit: int
) -> None:
    async with serving(rated_calls=rated, max_calls=most) as server:
        callers = [Caller(server.url, SILENCE) for _ in range(limit)]
        for caller in callers:
            await caller.__aenter__()
        await refused(server)  # opens the HTTP connection that the others take
        before = holdings()
        for _ in range(2):
            assert f"{limit} calls" in await refused(server)
        await given_back(before)
        figures = await stats(server)
        assert (figures["rated_calls"], figures["max_calls"]) == (limit, most)
        assert (figures["calls"], figures["refused"]) == (limit, 3)
        for caller in callers:
            await caller.hang_up()
        await until(lambda: not len(server.calls), "the calls are freed")
        async with Caller(server.url, SILENCE):
            pass


async def test_a_server_that_is_late_refuses_whatever_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        monkeypatch.setattr(Engine, "overloaded", True)
        assert "late" in await refused(server)
        monkeypatch.setattr(Engine, "overloaded", False)
        async with Caller(server.url, SILENCE):
            pass


async def test_the_figures_are_those_of_this_process() -> None:
    async with serving() as server:
        before = await stats(server)
        async with Caller(server.url, SILENCE) as caller:
            await packets(caller, 20)
            after = await stats(server)
            async with server.http.get(f"/calls/{caller.id}") as answer:
                report = await answer.json()
    assert before["pid"] == os.getpid()
    assert before["batches"] == {}
    assert before["step_ms"] == {"p50": None, "p99": None}
    assert set(after["batches"]) == {"1"}
    assert after["batches"]["1"] >= 20
    assert 0 < after["step_ms"]["p50"] <= after["step_ms"]["p99"]
    assert after["calls"] == 1
    assert after["cpu_s"] > before["cpu_s"]
    assert after["age_s"] > before["age_s"] > 0
    assert after["fds"] > before["fds"]
    assert after["tasks"] > before["tasks"]
    assert after["rss_bytes"] > 1e7
    assert (after["worker"], after["draining"]) == (0, False)
    assert report["enhancement"] in ("on", "shed")
    assert report["packets"]["shed"] >= 0


async def test_without_the_option_the_rated_load_is_measured() -> None:
    async with serving(rated_calls=None, max_calls=4) as server:
        assert 1 <= (await stats(server))["rated_calls"] <= 4


def test_step_times_are_those_of_the_last_batches() -> None:
    figures = BatchFigures(4)
    for n in range(3 * KEPT_STEPS):
        figures.note(1 + n % 2, 1.0 if n < 2 * KEPT_STEPS else 5.0)
    assert figures.counts() == {"1": 1.5 * KEPT_STEPS, "2": 1.5 * KEPT_STEPS}
    assert figures.step_ms() == {"p50": 5.0, "p99": 5.0}


async def test_lag_is_how_late_the_loop_runs_its_timers_and_ends_when_told() -> None:
    class Loop:
        now = 0.0
        timers = 0

        def time(self) -> float:
            return self.now

        def call_at(self, when: float, call: object) -> asyncio.Handle:
            self.timers += 1
            return asyncio.get_running_loop().call_soon(lambda: None)

    loop = Loop()
    lag = LoopLag(loop)  # type: ignore[arg-type]
    assert lag() == 0
    for n in range(20):
        loop.now += 0.05 + (0.5 if n == 3 else 0.0)  # a single stall
        lag._tick()
    assert lag() == pytest.approx(0, abs=1e-9)
    for _ in range(10):
        loop.now += 0.05 + 0.03
        lag._tick()
    assert lag() == pytest.approx(0.03)
    lag.stop()
    assert lag._timer.cancelled()
