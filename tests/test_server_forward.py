"""Rooms that are pushed on to another server's WHIP endpoint."""

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiortc.sdp import SessionDescription
from calling import TIMEOUT, Server, serving, until
from whip_peers import listening, publishing

from percepnet.framing import Float, Pcm
from server import forward, whipclient
from server.backoff import Backoff
from server.loadtest.hearing import lag
from server.media import sender
from server.media.opus import Encoded

SDP = {"Content-Type": "application/sdp"}


@contextlib.asynccontextmanager
async def answering(far: Server, change: Callable[[str], str]) -> AsyncIterator[str]:
    """The address of what stands before ``far`` and changes its answers."""

    async def answer(request: web.Request) -> web.Response:
        async with far.http.post("/whip/desk", data=await request.text(), headers=SDP) as response:
            text = await response.text()
            location = f"{far.url}{response.headers['Location']}"
        return web.Response(status=201, text=change(text), headers={"Location": location})

    app = web.Application()
    app.router.add_post("/whip", answer)
    async with TestServer(app) as before:
        yield str(before.make_url("/whip"))


@pytest.mark.parametrize("without", ["recvonly", "rtcp:", "(recvonly|rtcp:)"])
async def test_an_answer_that_leaves_out_what_has_a_default_takes_what_is_offered(
    without: str, speech: Pcm
) -> None:
    async with (
        serving() as far,
        answering(far, lambda sdp: re.sub(rf"a={without}.*\r\n", "", sdp)) as url,
        serving(forward=url) as server,
        publishing(server.http, "desk", speech),
    ):
        await until(lambda: len(far.calls.rooms) == 1, "the push")
        async with listening(far.http, "desk") as (ear, _):
            await ear.has(20)


async def test_no_datagram_of_a_stranger_ends_a_push(speech: Pcm) -> None:
    async with (
        serving() as far,
        serving(forward=f"{far.url}/whip/{{room}}") as server,
        publishing(server.http, "desk", speech),
    ):
        await until(lambda: len(far.calls.rooms) == 1, "the push")
        async with listening(far.http, "desk") as (ear, _), asyncio.timeout(TIMEOUT):
            await ear.has(20)
            (call,) = (call for call in far.calls if call.report()["role"] == "publisher")
            offered = SessionDescription.parse(call._connection.remoteDescription.sdp)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                for place in offered.media[0].ice_candidates:
                    if ":" not in place.ip:
                        stranger.sendto(b"", (place.ip, place.port))
            await ear.has(len(ear.frames) + 50)
        assert call in list(far.calls)  # and no other in its place


async def test_an_answer_that_takes_no_audio_is_told(speech: Pcm, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        serving() as far,
        answering(far, lambda sdp: sdp.replace("a=recvonly", "a=inactive")) as url,
        serving(forward=url) as server,
        publishing(server.http, "desk", speech),
    ):
        await until(lambda: "room desk cannot be pushed: its answer takes no audio" in caplog.text, "the log")


async def test_a_push_whose_sender_fails_is_begun_again(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(packet: Encoded) -> int:
        raise ValueError("of the test")

    monkeypatch.setattr(Backoff, "pause", lambda _: asyncio.sleep(0))
    async with (
        serving() as far,
        serving(forward=f"{far.url}/whip/{{room}}") as server,
        publishing(server.http, "desk", speech),
    ):
        with monkeypatch.context() as fault:
            fault.setattr(sender, "level_of", failing)
            await until(
                lambda: "room desk cannot be pushed: no connection: it is lost" in caplog.text, "the log"
            )
        await until(lambda: len(far.calls.rooms) == 1, "the push again")
        async with listening(far.http, "desk") as (ear, _):
            await ear.has(20)


async def test_a_push_that_does_not_connect_is_told(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with contextlib.AsyncExitStack() as other:
        far = await other.enter_async_context(serving())
        monkeypatch.setattr(forward, "CONNECT_TIME", 0.0)
        async with (
            serving(forward=f"{far.url}/whip/{{room}}") as server,
            publishing(server.http, "desk", speech),
        ):
            await until(
                lambda: "room desk cannot be pushed: no connection: none within 0 s" in caplog.text, "the log"
            )


async def test_a_server_that_ends_tells_the_one_that_it_pushes_to(speech: Pcm) -> None:
    async with serving() as far, contextlib.AsyncExitStack() as stack, contextlib.AsyncExitStack() as near:
        server = await near.enter_async_context(serving(forward=f"{far.url}/whip/{{room}}"))
        http = await stack.enter_async_context(aiohttp.ClientSession(server.url))
        await stack.enter_async_context(publishing(http, "desk", speech))
        await until(lambda: any(c._connection.connectionState == "connected" for c in far.calls), "the push")
        await near.aclose()
        assert not len(far.calls)


async def test_an_answer_that_cannot_be_taken_is_given_back_and_the_push_goes_on(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.method)
        if request.method == "DELETE":
            return web.Response()
        sdp = (await request.text()).replace("a=sendonly", "a=recvonly").replace("opus", "SILK")
        return web.Response(status=201, text=sdp, headers={"Location": "/resource"})

    monkeypatch.setattr(Backoff, "pause", lambda _: asyncio.sleep(0))
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    async with (
        TestServer(app) as far,
        serving(forward=f"{far.make_url('')}/whip/{{room}}") as server,
        publishing(server.http, "desk", speech),
    ):
        await until(lambda: seen[:4] == ["POST", "DELETE"] * 2, "two attempts, both given back")


async def test_a_push_keeps_its_token_and_its_address_to_itself(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(f"{request.method} {request.headers['Authorization']}")
        elsewhere = f"http://localhost:{request.url.port}/resource"
        return web.Response(
            status=201 if len(seen) == 1 else 403, text="no SDP", headers={"Location": elsewhere}
        )

    monkeypatch.setattr(Backoff, "pause", lambda _: asyncio.sleep(0))
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    async with (
        TestServer(app) as far,
        serving(forward=f"{far.make_url('')}/key/{{room}}?key=secret", forward_token="token") as server,
        publishing(server.http, "desk", speech),
    ):
        await until(lambda: len(seen) > 2, "three attempts")
    assert set(seen) == {"POST Bearer token"}  # nothing is deleted at the other name of this address
    assert "names a session at another server" in caplog.text
    assert "answered 403: no SDP" in caplog.text
    assert not any("key" in record.getMessage() for record in caplog.records)


async def test_a_push_that_goes_in_circles_is_told_without_its_address(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def again(request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(str(request.url))

    monkeypatch.setattr(Backoff, "pause", lambda _: asyncio.sleep(0))
    app = web.Application()
    app.router.add_post("/key/{room}", again)
    async with (
        TestServer(app) as far,
        serving(forward=f"{far.make_url('')}/key/{{room}}") as server,
        publishing(server.http, "desk", speech),
    ):
        await until(lambda: "room desk cannot be pushed: TooManyRedirects" in caplog.text, "the log")
    assert not any("key" in record.getMessage() for record in caplog.records)
    assert whipclient.told(TimeoutError()) == "TimeoutError"  # which says nothing itself


async def test_pushes_of_a_room_follow_each_other_and_keep_their_addresses_to_themselves(
    speech: Pcm, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the room is another: a server with one seat for it, or one address, would lose the new push."""
    caplog.set_level(logging.INFO)
    asked: list[str] = []
    free = asyncio.Event()
    async with serving() as far:

        async def answer(request: web.Request) -> web.Response:
            asked.append(request.method)
            async with far.http.post("/whip/desk", data=await request.text(), headers=SDP) as response:
                text, headers = await response.text(), {"Location": "/whip/key"}
            return web.Response(status=201, text=text, headers=headers)

        async def delete(request: web.Request) -> web.Response:
            asked.append(request.method)
            await free.wait()
            raise web.HTTPTemporaryRedirect(str(request.url))

        app = web.Application()
        app.router.add_post("/whip", answer)
        app.router.add_delete("/whip/key", delete)
        async with TestServer(app) as before, serving(forward=str(before.make_url("/whip"))) as server:
            async with publishing(server.http, "desk", speech):
                await until(lambda: len(far.calls.rooms) == 1, "the push")
            await until(lambda: "DELETE" in asked, "its end")
            async with publishing(server.http, "desk", speech):
                await until(lambda: len(server.calls.rooms) == 1, "the next publisher")
                assert asked == ["POST", "DELETE"]
                free.set()
                await until(lambda: asked.count("POST") == 2, "the next push")
    assert re.fullmatch("P(D+)PD+", "".join(method[0] for method in asked))
    assert "a session could not be deleted: TooManyRedirects" in caplog.text
    assert not any(
        "key" in record.getMessage() for record in caplog.records if record.name.startswith("server")
    )


async def test_a_room_is_pushed_on_until_its_publisher_goes_and_again_after_a_restart(
    speech: Pcm, noisy: Float
) -> None:
    async with contextlib.AsyncExitStack() as other:
        far = await other.enter_async_context(serving())
        async with serving(forward=f"{far.url}/whip/from-{{room}}") as server:
            async with publishing(server.http, "desk", speech):
                await until(lambda: len(far.calls.rooms) == 1, "the push")
                async with listening(far.http, "from-desk") as (ear, _):
                    heard = await ear.has(150)
                assert lag(np.resize(speech, len(heard)), heard) is not None
                # The other server forgets the call, as when it restarts.
                (pushed,) = far.calls
                await far.calls.close(pushed.id)
                await until(lambda: len(far.calls.rooms) == 1, "the push again")
            await until(lambda: not len(far.calls), "the end of the push")
            assert not len(server.calls.rooms)
