"""HTTP: what is answered to good, bad and hostile requests, and what is left of them."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection
from caller import Caller
from calling import START, TIMEOUT, Server, given_back, holdings, serving, until
from yarl import URL

from server import edge, sections
from server.call import Call
from server.offer import LONGEST_SDP, Offer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def sdp() -> str:
    """A good offer of audio and data."""
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTransceiver("audio")
    connection.createDataChannel("control")
    await connection.setLocalDescription(await connection.createOffer())
    sdp = connection.localDescription.sdp
    await connection.close()
    return sdp


def without(sdp: str, attribute: str) -> str:
    return re.sub(rf"a={attribute}.*\r\n", "", sdp)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system's own time")
async def test_who_does_not_read_the_answers_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "IDLE_TIME", 0.5)
    async with serving() as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            loop, url = asyncio.get_running_loop(), URL(server.url)
            before = len(os.listdir("/proc/self/fd"))
            await loop.sock_connect(client, (url.host, url.port))
            await until(lambda: len(os.listdir("/proc/self/fd")) > before, "the server's end")
            await loop.sock_sendall(
                client, 30 * b"GET /audio/sample.flac HTTP/1.1\r\nHost: localhost\r\n\r\n"
            )
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the end of the connection")


async def test_the_page_is_served_with_headers_that_protect_it(server: Server) -> None:
    async with server.http.get("/") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        page = await answer.text()
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';")
        assert {where for rule in policy.split(";") for where in rule.split()[1:]} == {"'self'", "'none'"}
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "microphone=(self)" in answer.headers["Permissions-Policy"]
    for path in re.findall(r'(?:src|href)="([\w./-]+)"', page):
        async with server.http.get("/" + path) as answer:
            assert answer.status == 200, path
            assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/audio",
        "/..%2fserver/app.py",
        "/a%00b",
        "/" + "x" * 300,
        "/../pyproject.toml",
        "/calls/",
        "/calls/unknown",
        "/offer",
    ],
)
async def test_what_is_not_there_is_404_in_json(server: Server, path: str) -> None:
    async with server.http.get(path) as answer:
        assert answer.status == 404
        assert isinstance((await answer.json())["error"], str)


async def test_health_tells_how_full_the_server_is(server: Server) -> None:
    async with server.http.get("/healthz") as answer:
        assert (answer.status, await answer.json()) == (
            200,
            {"status": "ok", "calls": 0, "rated_calls": 8, "max_calls": 8},
        )


async def test_an_offer_is_answered_with_an_id_and_the_options_it_asked_for(server: Server, sdp: str) -> None:
    options = {"enabled": False, "attenuation_limit_db": 18.5, "postfilter": False}
    async with server.http.post("/offer", json={"sdp": sdp, "type": "offer", **options}) as answer:
        assert answer.status == 201
        body = await answer.json()
        assert answer.headers["Location"] == f"/calls/{body['id']}"
    assert body["type"] == "answer"
    assert "m=audio" in body["sdp"]
    async with server.http.get(f"/calls/{body['id']}") as answer:
        report = await answer.json()
    assert report["controls"] == options
    assert report["packets"]["in"] == 0
    async with server.http.patch(f"/calls/{body['id']}", json={"attenuation_limit_db": None}) as answer:
        assert (await answer.json())["controls"] == {**options, "attenuation_limit_db": None}
    huge = {"attenuation_limit_db": 10**400}
    for bad in ({"attenuation_limit_db": -1}, huge, {"enabled": "yes"}, {"loudness": 1}, [], "text", 7):
        async with server.http.patch(f"/calls/{body['id']}", json=bad) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]


def spoilt(sdp: str) -> dict[str, Any]:
    """Bodies that are no offer, by what is wrong with them."""
    good = {"sdp": sdp, "type": "offer"}
    audio = sdp[sdp.index("m=audio") : sdp.index("m=application")]
    candidate = "a=candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host\r\n"
    return {
        "a list": [],
        "nothing": {},
        "no type": {"sdp": sdp},
        "an answer": {**good, "type": "answer"},
        "a type that is a list": {**good, "type": []},
        "no sdp": {"type": "offer"},
        "an sdp that is a number": {**good, "sdp": 5},
        "an sdp that is null": {**good, "sdp": None},
        "an empty sdp": {**good, "sdp": ""},
        "blanks": {**good, "sdp": " \r\n "},
        "garbage": {**good, "sdp": "garbage"},
        "binary garbage": {**good, "sdp": bytes(range(256)).decode("latin-1")},
        "half an sdp": {**good, "sdp": sdp[: len(sdp) // 3]},
        "an sdp without sections": {**good, "sdp": sdp[: sdp.index("m=")]},
        "an sdp far too long": {**good, "sdp": sdp + "a=x\r\n" * (LONGEST_SDP // 4)},
        "no audio": {**good, "sdp": sdp.replace(audio, "")},
        "two audio sections": {**good, "sdp": sdp + audio.replace("a=mid:0", "a=mid:7")},
        "video alone": {**good, "sdp": sdp.replace(audio, audio.replace("m=audio", "m=video"))},
        "video of the same mid": {**good, "sdp": sdp + audio.replace("m=audio", "m=video")},
        "video without a mid": {**good, "sdp": sdp + without(audio.replace("m=audio", "m=video"), "mid")},
        "a text section": {
            **good,
            "sdp": sdp + audio.replace("m=audio", "m=text").replace("a=mid:0", "a=mid:7"),
        },
        "videos without end": {**good, "sdp": sdp + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:7\r\n" * 20},
        "the same mid twice": {**good, "sdp": sdp.replace("a=mid:1", "a=mid:0")},
        "no mid": {**good, "sdp": without(sdp, "mid")},
        "no fingerprint": {**good, "sdp": without(sdp, "fingerprint")},
        "an unknown digest": {**good, "sdp": re.sub(r"a=fingerprint:sha-\d+", "a=fingerprint:md5", sdp)},
        "no ufrag": {**good, "sdp": without(sdp, "ice-ufrag")},
        "no ice password": {**good, "sdp": without(sdp, "ice-pwd")},
        "no setup": {**good, "sdp": without(sdp, "setup")},
        "an unknown setup": {**good, "sdp": re.sub("a=setup:.*", "a=setup:maybe", sdp)},
        "no rtcp-mux": {**good, "sdp": without(sdp, "rtcp-mux")},
        "audio that is only received": {**good, "sdp": sdp.replace("sendrecv", "recvonly")},
        "audio that is off": {**good, "sdp": sdp.replace("sendrecv", "inactive")},
        "unknown codecs": {**good, "sdp": re.sub(r"(opus|G722|PCMU|PCMA)/", "speex/", sdp)},
        "a bad payload type": {**good, "sdp": re.sub("m=audio .*", "m=audio 9 UDP/TLS/RTP/SAVPF 999", sdp)},
        "a bad candidate": {**good, "sdp": sdp.replace("a=setup", "a=candidate:nonsense\r\na=setup")},
        "codecs without end": {
            **good,
            "sdp": sdp.replace("a=rtpmap:9 ", "a=rtpmap:96 opus/48000/2\r" * 500 + "a=rtpmap:9 "),
        },
        "sections without end": {**good, "sdp": sdp + "m=audio 9 RTP/AVP 0\r\n" * 1000},
        "a bundle of sections that are not there": {**good, "sdp": sdp.replace("BUNDLE 0 1", "BUNDLE 5 1")},
        "candidates without end": {**good, "sdp": sdp.replace("a=setup", candidate * 100 + "a=setup", 1)},
        "an unknown option": {**good, "volume": 11},
        "a limit that is a text": {**good, "attenuation_limit_db": "12"},
        "a limit out of range": {**good, "attenuation_limit_db": 1000},
        "a switch that is a number": {**good, "enabled": 1},
    }


async def test_bad_offers_are_refused_and_leave_nothing_behind(server: Server, sdp: str) -> None:
    await (await server.http.get("/healthz")).read()
    before = holdings()
    for what, body in spoilt(sdp).items():
        async with server.http.post("/offer", json=body) as answer:
            assert answer.status == 400, what
            assert len((await answer.json())["error"]) > 5, what
    assert len(server.calls) == 0
    await given_back(before)


async def test_an_answer_that_fails_leaves_nothing_behind(
    server: Server, sdp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await server.http.get("/healthz")).read()
    before = holdings()
    with monkeypatch.context() as patch:
        patch.setattr(sections, "refused", lambda sdp, others: 1 / 0)
        for path in ("/offer", "/offer?room=desk"):
            async with server.http.post(path, json={"sdp": sdp, "type": "offer"}) as answer:
                assert answer.status == 400
    await given_back(before)
    assert len(server.calls.rooms) == 0


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe\xff", "application/json", 400),
        (b"[" * 50_000, "application/json", 400),
        (b'{"sdp": "x", "type": "offer"}', "text/plain", 415),
        (b'{"sdp": "x", "type": "offer"}', "application/json; charset=nonsense", 400),
        (b"x" * 100_000, "application/json", 413),
    ],
)
async def test_bodies_that_are_no_json_are_refused(
    server: Server, body: bytes, kind: str, status: int
) -> None:
    async with server.http.post("/offer", data=body, headers={"Content-Type": kind}) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]


async def test_json_is_utf_8_whatever_its_type_says(server: Server, sdp: str) -> None:
    """Python's punycode, for one, takes a third of a second for what a body may have, in which no packet moves."""
    kind = {"Content-Type": "application/json; charset=punycode"}
    offer = json.dumps({"sdp": sdp, "type": "offer"}).encode()
    async with server.http.post("/offer", data=offer, headers=kind) as answer:
        assert answer.status == 201


async def test_a_body_that_is_not_packed_as_it_says_is_refused(server: Server) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with server.http.post("/offer", data=b"{}", headers=headers) as answer:
        assert answer.status == 400
        assert "Content-Encoding" in (await answer.json())["error"]


async def test_a_body_that_breaks_off_is_no_fault_of_the_server(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A phone that loses its network, while answers of 5xx wake somebody up."""
    head = b"POST /offer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
    loop, url = asyncio.get_running_loop(), URL(server.url)
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (url.host, url.port))
        await loop.sock_sendall(client, head + b'{"sdp":')
    answered = {"400": 0}
    async with asyncio.timeout(TIMEOUT):
        while not sum(answered.values()):
            async with server.http.get("/stats") as stats:
                answered = (await stats.json())["answers"]
    assert (answered["400"], answered.get("500")) == (1, None)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_body_that_comes_drop_by_drop_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "BODY_TIME", 0.2)
    head = b"POST /offer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
    loop, url, answer = asyncio.get_running_loop(), URL(server.url), b""
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, (url.host, url.port))
        await loop.sock_sendall(client, head)
        async with asyncio.timeout(TIMEOUT):
            while b"}" not in answer:
                reading = asyncio.ensure_future(loop.sock_recv(client, 65_536))
                while not answer and not (await asyncio.wait([reading], timeout=0.05))[0]:
                    await loop.sock_sendall(client, b" ")
                more = await reading
                assert more, "closed without an answer"
                answer += more
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.2 s" in answer


async def test_another_method_is_405_in_json(server: Server) -> None:
    async with server.http.put("/healthz") as answer:
        assert answer.status == 405
        assert (await answer.json())["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.usefixtures("hang_ups")
async def test_a_signal_ends_the_process_with_calls_running(number: int) -> None:
    code = "from server.app import *; serve(Config(port=0, workers=1, rated_calls=2, drain_time=0))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=environment)
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START):
            url = (await process.stderr.readline()).decode().split()[-1]
        async with asyncio.timeout(TIMEOUT):
            silence = np.zeros(960, np.int16)
            async with Caller(url, silence) as one, Caller(url, silence):
                process.send_signal(number)
                _, errors = await process.communicate()
                await until(lambda: one.connection.connectionState == "closed", "the caller knows")
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert errors == b""


async def test_an_address_that_is_taken_is_an_error(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address"):
        async with serving(port=port):
            pass


async def test_an_offer_that_the_end_overtakes_is_refused(
    server: Server, sdp: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, free = asyncio.Event(), asyncio.Event()
    open_call = Call.open

    async def slowly(call: Call, offer: Offer) -> None:
        await open_call(call, offer)
        opened.set()
        await free.wait()

    monkeypatch.setattr(Call, "open", slowly)
    async with server.http.get("/healthz"):  # the client keeps its connection
        before = holdings()
    offering = asyncio.create_task(server.http.post("/offer", json={"sdp": sdp, "type": "offer"}))
    async with asyncio.timeout(TIMEOUT):
        await opened.wait()
        await server.calls.close_all()
        free.set()
        async with await offering as answer:
            assert answer.status == 503
            assert "the server has ended" in (await answer.json())["error"]
    assert not len(server.calls)
    await given_back(before)
