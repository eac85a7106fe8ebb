"""The sidecar as a process: one engine, one session with Janus, any number of rooms; whatever ends begins anew."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import web

from percepnet import Enhancer
from server import eventloop
from server.backoff import Backoff
from server.ending import Ending, first
from server.engine import Engine, running
from server.figures import process_figures
from server.media import audiolevel, libopus

from .janus import BROKEN, JanusError, Session, SessionLost, session
from .options import SidecarOptions
from .room import Room
from .transport import connected
from .twin import Twin
from .videoroom import Publisher, VideoRoom

CONNECTING_TIME: Final = 10.0  # s

logger = logging.getLogger(__name__)


class Sidecar:
    """Enhances the publishers of the rooms that ``options`` name with ``engine``, until :meth:`run` is cancelled."""

    def __init__(self, options: SidecarOptions, engine: Engine) -> None:
        self.connected = False
        self._options = options
        self._engine = engine
        self._rooms = [Room(id, options.pin, options.name, self._twin) for id in options.rooms]

    async def run(self) -> None:
        """Never returns. Cancelled, it leaves the rooms and gives back all it held."""
        backoff = Backoff()
        while True:
            try:
                await self._session()
            except (SessionLost, JanusError, *BROKEN) as error:
                logger.warning("no session with %s: %s", self._options.url, error or type(error).__name__)
            except Exception:
                logger.exception("the session with %s failed", self._options.url)
            await backoff.pause()

    def report(self) -> dict[str, object]:
        """Figures, ready for JSON."""
        return {
            "name": self._options.name,
            "connected": self.connected,
            "rooms": {str(room.room): room.report() for room in self._rooms},
            "shed": self._engine.shed_calls,
            "batches": self._engine.batches.counts(),
            "step_ms": self._engine.batches.step_ms(),
            **process_figures(),
        }

    async def _session(self) -> None:
        async with aiohttp.ClientSession() as http:
            async with asyncio.timeout(CONNECTING_TIME):
                transport = await connected(http, self._options.url)
            async with session(transport, self._options.authorization) as made:
                logger.info("in session with %s", self._options.url)
                self.connected = True
                try:
                    await first(made.lost(), *(self._keep(room, made) for room in self._rooms))
                finally:
                    self.connected = False

    async def _keep(self, room: Room, made: Session) -> None:
        """Be in a room whenever it is there."""
        backoff = Backoff()
        while True:
            try:
                await room.live(made)
            except JanusError as error:
                logger.warning("room %s: %s", room.room, error)
            except Exception:
                logger.exception("room %s: left", room.room)
            await backoff.pause()

    def _twin(self, room: VideoRoom, publisher: Publisher) -> Twin:
        return Twin(room, publisher, self._engine, self._options.controls, self._options.ice_servers)


def serve(options: SidecarOptions) -> None:
    """Run a sidecar until SIGINT or SIGTERM, then leave the rooms and return."""
    with Ending(drain_time=0) as ending:
        eventloop.run(_serve(options, ending))


async def _serve(options: SidecarOptions, ending: Ending) -> None:
    ending.listen(signal.SIGINT, signal.SIGTERM)
    logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells every step of every pair of candidates
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine(options))
        sidecar = Sidecar(options, engine)
        if options.stats_port is not None:
            await stack.enter_async_context(_answering(sidecar, options.stats_host, options.stats_port))
        await first(sidecar.run(), ending.told())


@asynccontextmanager
async def running_engine(options: SidecarOptions) -> AsyncIterator[Engine]:
    loop = asyncio.get_running_loop()
    audiolevel.install()
    libopus.library()  # found now, not in the first call
    streams = options.publishers
    enhancer = await loop.run_in_executor(None, lambda: Enhancer(streams=streams, model=options.model))
    async with running(enhancer, streams=streams) as engine:
        yield engine


@asynccontextmanager
async def _answering(sidecar: Sidecar, host: str, port: int) -> AsyncIterator[None]:
    """Answers ``GET /stats``, and ``GET /healthz`` with 503 while there is no session."""

    async def stats(request: web.Request) -> web.Response:
        return web.json_response(sidecar.report())

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"connected": sidecar.connected}, status=200 if sidecar.connected else 503)

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
