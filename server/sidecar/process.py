"""A sidecar as a process, whichever server it is beside: one engine, and figures for whoever asks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Protocol

from aiohttp import web

from percepnet import Enhancer
from server import eventloop
from server.ending import Ending
from server.engine import Engine, running
from server.waiting import first

from .options import CommonOptions

BEAT: Final = 1.0  # s between looks at the engine

logger = logging.getLogger(__name__)


class Sidecar(Protocol):
    @property
    def connected(self) -> bool:
        """Whether it is in all its rooms."""

    async def run(self) -> None:
        """Never returns. Cancelled, it leaves the rooms and gives back all it held."""

    def report(self) -> dict[str, object]:
        """Figures, ready for JSON."""


def serve(options: CommonOptions, make: Callable[[Engine], Sidecar]) -> None:
    """Run a sidecar until a signal, see :class:`Ending`, then leave the rooms and return."""
    with Ending(drain_time=0) as ending:
        eventloop.run(_serve(options, make, ending))


async def _serve(options: CommonOptions, make: Callable[[Engine], Sidecar], ending: Ending) -> None:
    ending.listen()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine(options))
        sidecar = make(engine)
        eventloop.begun()
        if options.stats_port is not None:
            await stack.enter_async_context(_answering(sidecar, options.stats_host, options.stats_port))
        await first(sidecar.run(), _alive(engine), ending.told())


async def _alive(engine: Engine) -> None:
    """Raises when the engine is no longer: while there are twins here, no other sidecar would make better ones."""
    while True:
        if not engine.alive:
            raise RuntimeError("the engine has died: the sidecar leaves its rooms to others")
        await asyncio.sleep(BEAT)


@asynccontextmanager
async def running_engine(options: CommonOptions) -> AsyncIterator[Engine]:
    loop = asyncio.get_running_loop()
    streams = options.publishers
    enhancer = await loop.run_in_executor(None, lambda: Enhancer(streams=streams, model=options.model))
    async with running(enhancer, streams=streams) as engine:
        yield engine


@asynccontextmanager
async def _answering(sidecar: Sidecar, host: str, port: int) -> AsyncIterator[None]:
    """Answers ``GET /stats``, and ``GET /healthz`` with 503 while it is not connected."""

    async def stats(request: web.Request) -> web.Response:
        return web.json_response(sidecar.report())

    async def healthz(request: web.Request) -> web.Response:
        connected = sidecar.connected
        return web.json_response({"connected": connected}, status=200 if connected else 503)

    app = web.Application()
    app.add_routes([web.get("/stats", stats), web.get("/healthz", healthz)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        logger.info("figures at http://%s:%d/stats", *runner.addresses[0][:2])
        yield
    finally:
        await runner.cleanup()
