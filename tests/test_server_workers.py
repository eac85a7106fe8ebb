"""Several processes behind one address: real ones, real calls, real deaths."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, make_mocked_request
from caller import Caller
from calling import PACKET, START, TIMEOUT, offered, packets, serving, until
from multidict import CIMultiDict
from processes import served

from server import app, front
from server import heartbeat as heartbeat_module
from server import worker as worker_module
from server.config import Config
from server.ending import Ending
from server.heartbeat import BEAT, Heartbeat
from server.worker import Parent
from server.workers import LONGEST_PAUSE, STEADY_TIME, WorkerFailed, Workers, next_pause

SILENCE = np.zeros(PACKET, np.int16)
DIES = 3  # exit status


def worker_of(id: str) -> int:
    return int(id.partition(".")[0])


def there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_all_headers_of_a_worker_are_passed_on_also_those_of_one_name() -> None:
    links = ["<stun:127.0.0.1>", "<turn:127.0.0.1>"]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=201, headers=CIMultiDict(("Link", link) for link in links))

    app = web.Application()
    app.router.add_post("/whip/desk", answer)
    async with TestServer(app) as far, aiohttp.ClientSession(far.make_url("/")) as http:
        request = make_mocked_request("POST", "/whip/desk")
        passed = await front._passed_on(request, SimpleNamespace(http=http), b"v=0")
    assert passed.status == 201
    assert passed.headers.getall("Link") == links


async def test_calls_are_shared_and_each_is_found_by_its_id() -> None:
    async with (
        served("--workers", "2", "--max-calls", "3", "--rated-calls", "8") as server,
        Caller(server.url, SILENCE) as one,
        Caller(server.url, SILENCE) as two,
    ):
        assert {worker_of(one.id), worker_of(two.id)} == {0, 1}
        for caller, limit in ((one, 10), (two, 20)):
            path = f"/calls/{caller.id}"
            async with server.http.patch(path, json={"attenuation_limit_db": limit}) as answer:
                assert answer.status == 200
        for caller, limit in ((one, 10), (two, 20)):
            status, report = await server.get(f"/calls/{caller.id}")
            assert (status, report["id"], report["state"]) == (200, caller.id, "connected")
            assert report["controls"]["attenuation_limit_db"] == limit
        health = {
            "status": "ok",
            "calls": 2,
            "rated_calls": 3,
            "max_calls": 3,
            "workers": {"fine": 2, "of": 2},
        }
        assert await server.get("/healthz") == (200, health)
        figures = await server.workers()
        assert [figures[n]["calls"] for n in (0, 1)] == [1, 1]
        assert [figures[n]["max_calls"] for n in (0, 1)] == [2, 1]
        assert len({server.process.pid, figures[0]["pid"], figures[1]["pid"]}) == 3
        assert all(figures[n]["cpu_s"] > 0 and figures[n]["rss_bytes"] > 1e6 for n in (0, 1))
        lines = (await server.get("/calls"))[1]["calls"]
        assert {line["id"] for line in lines} == {one.id[:8], two.id[:8]}
        async with server.http.get("/metrics") as answer:
            text = await answer.text()
        for n, pid in ((0, figures[0]["pid"]), (1, figures[1]["pid"])):
            assert f'percepnet_calls{{process="{pid}",worker="{n}"}} 1.0' in text
        assert f'percepnet_cpu_seconds_total{{process="{server.process.pid}",worker="front"}}' in text
        assert text.count("# TYPE percepnet_calls gauge") == 1

        body = await offered()
        async with server.http.post("/offer", json=body) as answer:  # takes the last place
            assert answer.status == 201
            id = (await answer.json())["id"]
            assert answer.headers["Location"] == f"/calls/{id}"
        async with server.http.post("/offer", json=body) as answer:
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert "calls" in (await answer.json())["error"]
        for which in (one.id, id):
            assert (await server.http.delete(f"/calls/{which}")).status == 204
            assert (await server.get(f"/calls/{which}"))[0] == 404
        await until(lambda: one.connection.connectionState == "closed", "the caller knows")
        await packets(two, 5)


async def test_what_is_answered_is_the_same_as_without_a_front() -> None:
    offer = await offered()
    json_type = {"Content-Type": "application/json"}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        *(
            ("POST", "/offer", {"json": body})
            for body in ([], {}, {**offer, "sdp": "garbage"}, {**offer, "enabled": 1}, {**offer, "volume": 3})
        ),
        *(
            ("POST", "/offer", {"data": data, "headers": json_type})
            for data in (b"", b"{", b"\xff\xfe\xff", b"[" * 50_000, b"x" * 100_000)
        ),
        ("POST", "/offer", {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
        (
            "POST",
            "/offer",
            {"data": b"{}", "headers": {"Content-Type": "application/json; charset=nonsense"}},
        ),
        ("POST", "/offer", {"data": b"{}", "skip_auto_headers": ["Content-Type"]}),
        *(
            ("GET", f"/calls/{id}", {})
            for id in ("unknown", "0.unknown", "7.x", "0.%2F..%2F", "%00", ".", "0.")
        ),
        ("PATCH", "/calls/0.unknown", {"json": {}}),
        ("DELETE", "/calls/1.unknown", {}),
        ("PUT", "/calls/0.unknown", {}),
        ("PUT", "/healthz", {}),
        *(
            ("GET", path, {})
            for path in ("/", "/admin", "/call.js", "/nothing", "/offer", "/calls/", "/..%2fserver/app.py")
        ),
    ]

    async def answers(http: aiohttp.ClientSession) -> list[object]:
        found: list[object] = []
        for method, path, options in requests:
            async with http.request(method, path, **options) as answer:
                headers = {k: v for k, v in answer.headers.items() if k not in ("Date", "Last-Modified")}
                found.append((method, path, answer.status, headers, await answer.read()))
        return found

    async with serving() as alone, served("--workers", "2") as server:
        for found, expected in zip(await answers(server.http), await answers(alone.http), strict=True):
            assert found == expected


async def test_a_worker_that_is_killed_takes_only_its_calls_and_is_replaced() -> None:
    async with (
        served("--workers", "2") as server,
        Caller(server.url, SILENCE) as lost,
        Caller(server.url, SILENCE) as kept,
    ):
        dead = worker_of(lost.id)
        pid = (await server.workers())[dead]["pid"]
        await packets(kept, 5)
        os.kill(pid, signal.SIGKILL)
        async with Caller(server.url, SILENCE) as new:  # answered by the other at once
            assert worker_of(new.id) == 1 - dead
            assert (await server.get(f"/calls/{lost.id}"))[0] == 404
            async with asyncio.timeout(START):
                while dead not in (figures := await server.workers()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert figures[dead]["pid"] != pid
            assert (await server.get(f"/calls/{lost.id}"))[0] == 404  # the new one's ids are others
            async with Caller(server.url, SILENCE) as newer:
                assert worker_of(newer.id) == dead
                await packets(newer, 2)
            await packets(new, 2)
        await packets(kept, 5)
        status, report = await server.get(f"/calls/{kept.id}")
        # What a busy machine is too slow for is dropped by the engine; that is no loss from the death beside it.
        assert (status, report["state"], report["packets"]["lost"]) == (200, "connected", 0)
        assert (await server.workers())[1 - dead]["pid"] == figures[1 - dead]["pid"]
        server.process.terminate()
        await kept.hang_up()
        assert await server.ended() == 0
    said = "".join(server.lines)
    assert re.search(
        rf"WARNING .*worker {dead} \(process {pid}\) ended by SIGKILL, and with it 1 calls", said
    )
    assert f"INFO worker {1 - dead} server.call: call {kept.id[:8]}: connected" in said
    assert said.count("serves on http") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("workers", [1, 2])
async def test_calls_at_hand_may_end_while_no_new_ones_are_taken(workers: int) -> None:
    async with (
        served("--workers", str(workers), "--drain-time", "300") as server,
        Caller(server.url, SILENCE) as caller,
    ):
        body = await offered()
        server.process.terminate()
        await server.read_until("ending")
        sdp = {"data": body["sdp"], "headers": {"Content-Type": "application/sdp"}}
        for path, content in (("/offer", {"json": body}), ("/whip/desk", sdp)):
            async with server.http.post(path, **content) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) == 300
                assert "ending" in (await answer.json())["error"]
        status, health = await server.get("/healthz")
        assert (status, health["status"], health["calls"]) == (503, "draining", 1)
        await packets(caller, 20)
        async with server.http.patch(f"/calls/{caller.id}", json={"enabled": False}) as answer:
            assert (await answer.json())["controls"]["enabled"] is False
        await caller.hang_up()
        assert await server.ended() == 0
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("way", ["the time is over", "a second signal"])
async def test_calls_that_do_not_end_are_closed(workers: int, way: str) -> None:
    drain_time = "0.5" if way == "the time is over" else "300"
    async with (
        served("--workers", str(workers), "--drain-time", drain_time) as server,
        Caller(server.url, SILENCE) as caller,
    ):
        os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does: to all processes
        await server.read_until("ending")
        if way == "a second signal":
            await packets(caller, 5)
            os.killpg(server.process.pid, signal.SIGINT)
        assert await server.ended() == 0, server.lines
        await until(lambda: caller.connection.connectionState == "closed", "the caller knows")
    assert "Traceback" not in "".join(server.lines)


@pytest.mark.usefixtures("hang_ups")
async def test_a_terminal_that_closes_lets_calls_end(tmp_path: Path) -> None:
    async with served("--workers", "2", "--drain-time", "300", folder=tmp_path) as server:
        async with Caller(server.url, SILENCE) as caller:
            for _ in range(2):  # from the shell and from the kernel, to all processes
                os.killpg(server.process.pid, signal.SIGHUP)
            await server.read_until("ending")
            await packets(caller, 5)
        assert await server.ended() == 0, server.lines
    assert not list(tmp_path.glob("percepnet-*"))  # noqa: ASYNC240


async def test_no_worker_outlives_its_parent(tmp_path: Path) -> None:
    async with (
        served("--workers", "2", folder=tmp_path) as server,
        Caller(server.url, SILENCE) as caller,
    ):
        pids = [figures["pid"] for figures in (await server.workers()).values()]
        (sockets,) = tmp_path.glob("percepnet-*")  # noqa: ASYNC240
        assert sockets.stat().st_mode & 0o777 == 0o700
        server.process.kill()
        await until(lambda: not any(map(there, pids)), "the workers are gone")
        await until(lambda: caller.connection.connectionState == "closed", "the caller knows")
        await until(lambda: not sockets.exists(), "their sockets are gone")


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-"])
async def test_a_connection_without_a_request_is_not_kept(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "IDLE_TIME", 0.5)
    page = web.Application()
    async with app._listening(page, Config(port=0)) as runner:
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(said)
        async with asyncio.timeout(TIMEOUT):
            assert await reader.read() == b""
        writer.close()


async def test_a_server_whose_workers_cannot_start_says_why(tmp_path: Path) -> None:
    async with served("--workers", "2", "--model", str(tmp_path / "none.onnx")) as server:
        assert await server.ended() == 1
    assert re.fullmatch(r"percepnet: worker \d does not start: .*none\.onnx.*\n", server.lines[-1])
    assert "Traceback" not in "".join(server.lines)


async def test_an_address_that_is_taken_is_an_error_before_any_worker_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with served("--workers", "2", "--port", port) as server:
            assert await server.ended() == 1
    assert re.fullmatch(r"percepnet: .*address already in use.*\n", "".join(server.lines))


def dies(number: int, config: Config, path: Path, channel: socket.socket) -> None:
    sys.exit(DIES)


async def test_a_worker_that_dies_as_it_starts_is_named() -> None:
    async with Workers(Config(), 2, dies) as workers:
        with pytest.raises(WorkerFailed, match=rf"worker \d does not start: .*status {DIES}"):
            await workers.start()
        assert workers.live == []


def hangs(number: int, config: Config, path: Path, channel: socket.socket) -> None:
    """The first of its number is ready and then stands still, as a process does whose event loop is blocked."""

    async def live() -> None:
        parent = await Parent.connected(channel)
        obeying = asyncio.create_task(parent.obey(Ending(0)))
        parent.tell(ready=True)
        if path.suffix == ".0":
            await asyncio.sleep(BEAT)
            os.kill(os.getpid(), signal.SIGSTOP)
        while not obeying.done():
            parent.tell(beat=True)
            await asyncio.sleep(BEAT)

    asyncio.run(live())


async def test_a_worker_that_hangs_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    async with Workers(Config(), 1, hangs, patience=4) as workers:
        await workers.start()
        (first,) = workers.live
        await until(
            lambda: bool(workers.live) and workers.live[0] is not first, "another one is there", START
        )
        assert first.process.exitcode == -signal.SIGKILL
        (second,) = workers.live
        # for longer than the patience
        await until(lambda: second._heartbeat._heard > 8, "it says that it lives")
        assert workers.live == [second]
    assert f"worker 0 (process {first.process.pid}) has said nothing for 4 s" in caplog.text


def never_ready(number: int, config: Config, path: Path, channel: socket.socket) -> None:
    signal.pause()


async def test_a_worker_that_hangs_as_it_starts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "LONGEST_START", 0.5)
    async with Workers(Config(), 1, never_ready) as workers:
        with pytest.raises(WorkerFailed, match=r"worker 0 does not start: .* was not ready after 0.5 s"):
            await workers.start()
        assert workers.live == []


async def test_who_stood_still_itself_does_not_count_that_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat_module, "BEAT", 0.1)
    heartbeat = Heartbeat(patience=2)
    listening = asyncio.create_task(heartbeat.stopped())
    loop = asyncio.get_running_loop()
    for _ in range(3):
        await asyncio.sleep(0)
        time.sleep(0.25)  # noqa: ASYNC251 — this is what is tested
        loop.call_soon(heartbeat.hear)  # as when what has come meanwhile is read
    assert not listening.done()
    async with asyncio.timeout(TIMEOUT):
        await listening


def test_pauses_grow_while_workers_die_young() -> None:
    pauses = [0.0]
    for _ in range(20):
        pauses.append(next_pause(pauses[-1], STEADY_TIME / 2))
    assert all(a < b or b == LONGEST_PAUSE for a, b in pairwise(pauses))
    assert pauses[1] < 1
    assert pauses[-1] == LONGEST_PAUSE
    assert next_pause(LONGEST_PAUSE, STEADY_TIME) == 0
