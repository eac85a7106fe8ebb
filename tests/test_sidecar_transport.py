"""The ways to Janus: what goes wrong is told without the secrets in its address."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from server.sidecar.transport import connected


@contextlib.asynccontextmanager
async def refusing(path: str, status: int) -> AsyncIterator[tuple[aiohttp.ClientSession, URL]]:
    """A session, and the address of Janus behind what answers each GET of ``path`` with ``status``."""

    async def refused(request: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get(path, refused)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        yield http, server.make_url("/janus")


async def test_what_goes_wrong_with_a_poll_is_told_without_the_secrets_in_its_url() -> None:
    async with refusing("/janus/7", 502) as (http, url):  # as of a proxy before a Janus that is gone
        polls = await connected(http, str(url))
        with pytest.raises(ConnectionError, match="502: Bad Gateway") as error:
            await polls.receive(7, {"apisecret": "hunter2"})
        assert "hunter2" not in str(error.value)


async def test_a_socket_that_is_refused_is_told_without_the_secrets_in_its_url() -> None:
    async with refusing("/janus", 401) as (http, url):  # as of a gateway
        with pytest.raises(ConnectionError, match="401") as error:
            await connected(http, str(url.with_scheme("ws").with_query(apikey="hunter2")))
        assert "hunter2" not in str(error.value)
