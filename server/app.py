"""The server as an aiohttp application, and running it until it is told to end."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from percepnet import Enhancer
from percepnet.cli import describe
from percepnet.cli.cores import available_time

from . import eventloop, iceservers, tls
from .api import CALLS, CONFIG, ENGINE, PAGE, routes
from .calls import Calls
from .config import Config
from .edge import IDLE_TIME, application, application_behind_front
from .ending import ENDING_TIME, Ending
from .engine import running
from .forward import Forwarding
from .front import create_front
from .heartbeat import BEAT
from .media import audiolevel, libopus
from .rating import measured
from .waiting import first
from .worker import Parent
from .workers import Workers

REQUEST_TIME: Final = 2.0  # s that requests under way have to end
BACKLOG: Final = 1024  # connections of the front that may wait for a worker
WORKER: Final = web.AppKey("worker", int)  # its number

logger = logging.getLogger(__name__)


def create_app(config: Config, worker: int | None = None) -> web.Application:
    """The server, or worker number ``worker`` behind a front, as an application; its engine starts and ends with it.

    Raises ``FileNotFoundError`` when the page's files are not there, and as :func:`application`.
    """
    alone = worker is None
    app = application(config, lambda caller: app[CALLS].of(caller)) if alone else application_behind_front()
    app[CONFIG] = config
    app[PAGE] = static_folder()
    app[WORKER] = worker or 0
    app.cleanup_ctx.append(_engine)
    app.on_shutdown.append(_close_calls)
    app.add_routes(routes)
    return app


def static_folder() -> Path:
    """The page's files: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "static", here.parent / "static"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no page: neither {here / 'static'} nor {here.parent / 'static'} is there")


def serve(config: Config) -> None:
    """Serve until a signal, see :class:`Ending`, then close all calls and return.

    From one process, or from several workers behind a front that then has the public address. Raises
    ``OSError`` when the address is taken, and :class:`WorkerFailed`.
    """
    config = iceservers.with_secret(config)
    workers = min(config.workers, config.max_calls)
    if workers == 1:
        with Ending(config.drain_time) as ending:
            eventloop.run(_serve_alone(config, ending))
    else:
        with Ending(config.drain_time, ENDING_TIME + REQUEST_TIME) as ending:  # workers end before it
            eventloop.run(_serve_workers(config, workers, ending))


async def _serve_alone(config: Config, ending: Ending) -> None:
    ending.listen()
    app = create_app(config)
    async with _listening(app, config) as runner:
        _announce(runner, config)
        await _drained(app, ending)


async def _serve_workers(config: Config, count: int, ending: Ending) -> None:
    ending.listen()
    async with (
        Workers(config, count, _work) as workers,
        _listening(create_front(config, workers, static_folder()), config) as runner,
    ):
        await first(workers.start(), ending.told())
        if not ending.is_told:
            _announce(runner, config)
        await ending.told()
        await workers.drain(ending)


def _work(number: int, config: Config, path: Path, channel: socket.socket) -> None:
    """A worker's life."""
    with Ending(config.drain_time) as ending:
        sys.exit(eventloop.run(_serve_parent(number, config, path, channel, ending)))


async def _serve_parent(
    number: int, config: Config, path: Path, channel: socket.socket, ending: Ending
) -> int:
    # Only the parent hurries it: a signal to the whole group would come on top of its word to drain.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.drain)
    parent = await Parent.connected(channel)
    tasks = [asyncio.create_task(parent.obey(ending))]
    try:
        app = create_app(config, number)
        async with _listening(app, path):
            app[CALLS].on_caller = lambda caller, began: parent.tell(caller=caller, began=began)
            parent.tell(ready=True)
            tasks.append(asyncio.create_task(_report_life(parent, app, ending)))
            await _drained(app, ending)
    except Exception as error:
        parent.tell(failed=describe(error))
        return 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await parent.close()
    return 0


async def _report_life(parent: Parent, app: web.Application, ending: Ending) -> None:
    """Tell every second that the event loop turns. Without its engine a worker ends, once its last call has."""
    while True:
        parent.tell(beat=True)
        if not app[ENGINE].alive and not len(app[CALLS]):
            parent.tell(failed="has lost its engine")
            ending.drain()
        await asyncio.sleep(BEAT)


async def _drained(app: web.Application, ending: Ending) -> None:
    await ending.told()
    app[CALLS].draining = True
    await ending.grace(app[CALLS].ended())


@asynccontextmanager
async def _listening(app: web.Application, where: Config | Path) -> AsyncIterator[web.AppRunner]:
    """Answers requests inside, at the address of the options or at a unix socket."""
    logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells every step of every pair of candidates
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=REQUEST_TIME / 2,  # aiohttp waits for it twice
        keepalive_timeout=IDLE_TIME,
        lingering_time=0,
    )
    await runner.setup()
    eventloop.begun()
    try:
        if isinstance(where, Path):
            await web.UnixSite(runner, where, backlog=BACKLOG).start()
        else:
            try:
                await web.TCPSite(runner, where.host, where.port, ssl_context=tls.context(where)).start()
            except socket.gaierror as error:
                raise OSError(error.errno, error.strerror, where.host) from error
        yield runner
    finally:
        await runner.cleanup()


def _announce(runner: web.AppRunner, config: Config) -> None:
    host, port = runner.addresses[0][:2]
    shown = f"[{host}]" if ":" in host else host
    scheme = "http" if config.tls_cert is None else "https"
    said = f"percepnet serves on {scheme}://{shown}:{port}"
    if config.log_format == "json":  # nothing else may be among the lines
        logger.info(said)
        return
    with contextlib.suppress(OSError):  # a full disk is no reason not to serve
        print(said, file=sys.stderr, flush=True)


async def _engine(app: web.Application) -> AsyncIterator[None]:
    config = app[CONFIG]
    loop = asyncio.get_running_loop()
    audiolevel.install()
    libopus.library()  # found now, not in the first call
    enhancer = await loop.run_in_executor(
        None, lambda: Enhancer(streams=config.max_calls, model=config.model)
    )
    rated = config.rated_calls
    if rated is None:
        share = min(1.0, available_time() / config.workers)
        rated = await loop.run_in_executor(None, measured, enhancer, share)
    async with running(enhancer, streams=config.max_calls, queue_packets=config.queue_packets) as engine:
        app[ENGINE] = engine
        app[CALLS] = Calls(config, engine, rated, app[WORKER])
        forwarding = Forwarding(config.forward, config.forward_token) if config.forward is not None else None
        if forwarding is not None:
            app[CALLS].rooms.on_publish = forwarding.follow
        yield
        await app[CALLS].close_all()
        if forwarding is not None:
            await forwarding.close()


async def _close_calls(app: web.Application) -> None:
    await app[CALLS].close_all()
