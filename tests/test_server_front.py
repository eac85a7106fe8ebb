"""What the process before several workers keeps from them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server import front
from server.app import static_folder
from server.config import Config
from server.ending import Ending
from server.heartbeat import SILENT
from server.worker import Worker
from server.workers import Workers


async def test_who_asks_for_the_health_without_end_takes_no_workers_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = 0.0, []
    monkeypatch.setattr(front, "time", SimpleNamespace(monotonic=lambda: now))
    kept = front.Kept()

    async def ask() -> list[tuple[int, Any]]:
        asked.append(now)
        await asyncio.sleep(0)
        return [(200, len(asked))]

    for n in range(20):
        now = n / 10
        answers = await asyncio.gather(*(kept.told(ask) for _ in range(50)))
        assert answers == [[(200, len(asked))]] * 50
    assert asked == [0.0, 0.5, 1.0, 1.5]


class Stand:
    """What a front sees of a worker, at ``http``."""

    def __init__(self, number: int, http: aiohttp.ClientSession, calls: int = 0) -> None:
        self.number, self.http, self.calls = number, http, calls
        self.ready, self.silent, self.offers, self.turn = True, False, 0, 0


async def test_a_call_whose_worker_cannot_be_reached_may_be_alive() -> None:
    """As when its backlog is full, or the front has no descriptor left; 404 would tell that it is over."""
    workers = Workers(Config(), 1, lambda *_: None)
    async with workers, aiohttp.ClientSession("http://127.0.0.1:9") as nowhere:
        stand = Stand(0, nowhere)
        workers._workers[0] = stand  # type: ignore[assignment]
        async with TestClient(TestServer(front.create_front(Config(), workers, static_folder()))) as client:
            for method in ("GET", "DELETE"):
                async with client.request(method, "/calls/0.abc") as answer:
                    assert answer.status == 503
                    assert "Retry-After" in answer.headers
                    assert "worker 0 cannot be reached" in (await answer.json())["error"]
            stand.ready = False
            async with client.get("/calls/0.abc") as answer:
                assert answer.status == 404
        del workers._workers[0]


async def test_a_worker_that_is_silent_is_spared_what_another_can_do() -> None:
    asked: list[int] = []

    def answering(number: int) -> web.Application:
        async def answer(request: web.Request) -> web.Response:
            asked.append(number)
            return web.json_response({"worker": number, "calls": 0, "rated_calls": 1, "max_calls": 1})

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        return app

    workers = Workers(Config(), 2, lambda *_: None)
    async with (
        workers,
        TestServer(answering(0)) as zero,
        TestServer(answering(1)) as one,
        aiohttp.ClientSession(zero.make_url("")) as a,
        aiohttp.ClientSession(one.make_url("")) as b,
    ):
        stands = [Stand(0, a), Stand(1, b, calls=5)]
        workers._workers.update(enumerate(stands))  # type: ignore[arg-type]
        app = front.create_front(Config(), workers, static_folder())
        async with TestClient(TestServer(app)) as client:
            stands[0].silent = True
            async with client.post("/offer") as answer:
                assert (answer.status, asked) == (200, [1])
            async with client.get("/healthz") as answer:
                assert (await answer.json())["workers"] == {"fine": 1, "of": 2}
            homes = {workers.home(room).number: room for room in "abcdefgh"}  # type: ignore[union-attr]
            async with client.post(f"/whip/{homes[0]}") as answer:
                assert answer.status == 503
            assert asked == [1, 1]
            stands[1].silent = True  # better than nobody
            async with client.post("/offer") as answer:
                assert (answer.status, asked) == (200, [1, 1, 0])
        workers._workers.clear()


async def test_a_worker_says_nothing_for_some_beats_before_it_is_silent() -> None:
    worker = object.__new__(Worker)
    worker._heartbeat = SimpleNamespace(missing=SILENT - 1)  # type: ignore[assignment]
    assert not worker.silent
    worker._heartbeat.missing += 1
    assert worker.silent


@pytest.mark.parametrize("turns", range(6))
async def test_a_worker_that_dies_as_all_are_to_end_is_not_replaced(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.workers.STEADY_TIME", 0.0)
    workers = Workers(Config(), 1, lambda *_: None)
    dies, started = asyncio.Event(), []

    async def once(number: int, generation: int, on_ready: Any) -> str:
        started.append(generation)
        on_ready()
        await dies.wait()
        return "ended"

    monkeypatch.setattr(workers, "_once", once)
    with Ending(0) as ending:
        async with workers:
            await workers.start()
            dies.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            before = len(started)
            ending.drain()
            await workers.drain(ending)
    assert len(started) == before
