"""Log lines as text and as JSON: each says about which call it is, and none tells a secret."""

import asyncio
import io
import json
import logging

import aiohttp
import numpy as np
import pytest
from caller import Caller
from calling import TIMEOUT, serving
from processes import served
from yarl import URL

from percepnet import Enhancer
from server import logs
from server.engine import Engine

SILENCE = np.zeros(960, np.int16)
TOKEN = "correct-horse-battery-staple"
SECRETS = {"PERCEPNET_TOKENS": TOKEN, "PERCEPNET_TURN_SECRET": "hunter2hunter2"}
TURN = ("--ice-server", "turn:127.0.0.1:9")  # where nobody answers


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lines(form: str, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a worker numbered 3 logs, in each form."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    logs.log_to_stderr(logging.INFO, 3, form)
    return stream


def call_of(line: str, form: str) -> str:
    """The call that a line is about."""
    if form == "json":
        found = json.loads(line)
        assert found["worker"] == 3
        return found.get("call", "")
    assert " worker 3 tests: " in line
    words = line.partition("tests: ")[2].split()
    return words[1].rstrip(":") if words[0] == "call" else ""


async def test_a_calls_id_goes_along_with_what_it_begins(form: str, lines: io.StringIO) -> None:
    logger = logging.getLogger("tests")

    async def later() -> None:
        await asyncio.sleep(0)
        logger.warning("%s\nin two lines", "later")

    logger.warning("before")
    with logs.about("0.abcdef"):
        task = asyncio.create_task(later())
        logger.warning("inside")
    logger.warning("outside", extra={"call": "1.ghijkl"})
    logger.warning("after")
    await task
    found = lines.getvalue().splitlines()
    assert [call_of(line, form) for line in found[:5]] == ["", "0.abcdef", "1.ghijkl", "", "0.abcdef"]
    if form == "json":
        assert len(found) == 5
        assert json.loads(found[4])["message"] == "later\nin two lines"


def test_json_has_the_traceback_and_nothing_that_was_attached(form: str, lines: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("tests").exception("failed", extra={"token": TOKEN})
    assert TOKEN not in lines.getvalue()
    assert "ValueError: broken" in lines.getvalue()
    if form == "json":
        (line,) = lines.getvalue().splitlines()
        fields = ["time", "level", "logger", "worker", "message", "exception"]
        assert list(json.loads(line)) == fields


def test_the_engine_tells_whose_enhancement_failed(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("broken")

    enhancer = Enhancer(streams=2)
    monkeypatch.setattr(enhancer, "process", broken)
    engine = Engine(enhancer, streams=2)
    for number in (0, 1):
        with logs.about(f"0.call-{number}"):
            engine.open(lambda time, samples: None).submit(0, np.zeros(960, np.float32))
    assert engine.work()
    said = [line for line in lines.getvalue().splitlines() if "its enhancement failed" in line]
    assert len(said) == 2
    assert "0.call-0" in said[0]
    assert "0.call-1" in said[1]


@pytest.mark.parametrize(
    "request_", ["GET /calls/0.{} HTTP/9.9\r\n", "GET / HTTP/1.1\r\nAuthorization : Bearer {}\r\n"]
)
async def test_of_what_is_no_http_it_is_told_only_from_where_it_came(
    lines: io.StringIO, request_: str
) -> None:
    async with serving() as server:
        url = URL(server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request_.format(TOKEN).encode() + b"Host: localhost\r\n\r\n")
        assert b" 400 " in await asyncio.wait_for(reader.readline(), TIMEOUT)
        writer.close()
    (said,) = (line for line in lines.getvalue().splitlines() if "aiohttp" in line)
    assert "WARNING" in said.upper()
    assert "127.0.0.1" in said
    assert TOKEN not in lines.getvalue()


async def test_a_servers_lines_are_json_with_the_call_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    options = ("--log-format", "json", "--log-level", "debug", "--rated-calls", "8", *TURN)
    async with served("--workers", "1", *options) as server:
        assert (await server.http.get("/stats", headers={"Authorization": "Bearer wrong"})).status == 401
        caller = Caller(server.url, SILENCE)
        async with aiohttp.ClientSession(headers=headers) as http:
            await caller.call(http)
        await asyncio.wait_for(caller.ear.first.wait(), TIMEOUT)
        await server.http.get(f"/calls/{caller.id}", headers=headers)
        await caller.hang_up()
        await server.read_until("ended after")
        server.process.terminate()
        assert await server.ended() == 0
    found = [json.loads(line) for line in server.lines]
    about_it = [line["message"] for line in found if line.get("call") == caller.id[:8]]
    assert "connected" in about_it
    assert any(message.startswith("ended after") for message in about_it)
    assert any(line["logger"].startswith("aiortc") and "call" in line for line in found)
    for secret in (caller.id, *SECRETS.values()):
        assert secret not in "".join(server.lines)
