"""Two servers behind a real HAProxy, as Kubernetes has it: calls stay where they are, and rooms meet."""

import asyncio
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from calling import TIMEOUT, Server, offered, serving

pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy")
TABLE = 50  # calls and rooms whose place is known
CONFIGURATION = Path(__file__).parent.parent / "docker/kubernetes/haproxy.cfg"


class Balancer:
    """A running HAProxy, and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, http: aiohttp.ClientSession) -> None:
        self.process = process
        self.http = http

    async def says(self, text: str) -> None:
        """Wait for a line of its log."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            async for line in self.process.stdout:
                if text in line.decode():
                    return
        raise AssertionError(f"never said: {text}")


@asynccontextmanager
async def balancing(folder: Path, *servers: Server) -> AsyncIterator[Balancer]:
    """HAProxy with the configuration of the manifests, but for its addresses, and that it looks more often."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept, _, _ = CONFIGURATION.read_text().partition("    server-template")
    lines = [f"    server pod{n} {server.url.removeprefix('http://')}" for n, server in enumerate(servers)]
    file = folder / "haproxy.cfg"
    kept = kept.replace("bind :8080", f"bind 127.0.0.1:{port}").replace(
        "inter 2s fall 2", "inter 200ms fall 20"
    )
    kept = kept.replace("size 1m", f"size {TABLE}")
    file.write_text(kept + "\n".join(lines) + "\n")
    process = await asyncio.create_subprocess_exec("haproxy", "-f", file, stdout=asyncio.subprocess.PIPE)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            async with asyncio.timeout(TIMEOUT):
                while not await _answers(http):  # noqa: ASYNC110 — nothing to await
                    await asyncio.sleep(0.05)
            yield Balancer(process, http)
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


async def _answers(http: aiohttp.ClientSession) -> bool:
    try:
        async with http.get("/healthz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def test_offers_are_spread_and_each_call_is_found_by_its_address(tmp_path: Path) -> None:
    body = await offered()
    async with serving() as one, serving() as two, balancing(tmp_path, one, two) as balancer:
        http = balancer.http
        places: list[str] = []
        for _ in range(12):
            async with http.post("/offer", json=body) as answer:
                assert answer.status == 201
                places.append(answer.headers["Location"])
            if len(one.calls) and len(two.calls):
                break
        assert len(one.calls)
        assert len(two.calls)
        for place in places:
            async with http.patch(place, json={"attenuation_limit_db": 7}) as answer:
                assert answer.status == 200
        one.calls.draining = True
        await balancer.says("Server pods/pod0 is DOWN")
        for place in places:
            assert (await http.delete(place)).status == 204
            assert (await http.get(place)).status == 404
        assert len(one.calls) + len(two.calls) == 0


async def test_refused_offers_to_any_number_of_rooms_drive_no_call_out(tmp_path: Path) -> None:
    body = await offered()
    async with serving() as one, serving() as two, balancing(tmp_path, one, two) as balancer:
        places: list[str] = []
        for _ in range(8):
            async with balancer.http.post("/offer", json=body) as answer:
                places.append(answer.headers["Location"])
        for n in range(2 * TABLE):
            async with balancer.http.post(f"/whip/room{n}", data="garbage") as answer:
                assert answer.status == 415
        for place in places:
            async with balancer.http.delete(place) as answer:
                assert answer.status == 204


async def test_a_room_is_in_one_server_and_a_full_one_is_passed_over(tmp_path: Path) -> None:
    body = await offered()
    async with (
        serving(max_calls=4) as one,
        serving(max_calls=4) as two,
        balancing(tmp_path, one, two) as balancer,
    ):
        http = balancer.http
        for room in ("a", "b"):
            for _ in range(2):
                async with http.post(f"/offer?room={room}", json=body) as answer:
                    assert answer.status == 201, await answer.text()
            async with http.post(f"/offer?room={room}", json=body) as answer:
                assert answer.status == 409  # the third meets the two
        for _ in range(4):
            async with http.post("/offer", json=body) as answer:
                assert answer.status == 201
        assert len(one.calls) == len(two.calls) == 4
        async with http.post("/offer", json=body) as answer:
            assert answer.status == 503
            assert "Retry-After" in answer.headers
