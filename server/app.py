"""The server as an aiohttp application, and running it until it is told to end."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from aiohttp import web

from percepnet import Enhancer

from . import eventloop
from .api import CALLS, CONFIG, ENGINE, PAGE, add_headers, errors_as_json, routes
from .calls import Calls
from .config import Config
from .engine import Engine
from .media import audiolevel

LARGEST_BODY: Final = 64 * 1024  # bytes
ENDING_TIME: Final = 10.0  # s that calls and threads have to end before the process ends without them
REQUEST_TIME: Final = 2.0  # s that requests under way have to end

logger = logging.getLogger(__name__)


def create_app(config: Config) -> web.Application:
    """The server as an application; its engine starts and ends with it.

    Raises ``FileNotFoundError`` when the page's files are not there.
    """
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[errors_as_json])
    app[CONFIG] = config
    app[PAGE] = static_folder()
    app.on_response_prepare.append(add_headers)
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
    """Serve until SIGINT or SIGTERM, then close all calls and return.

    Threads that are no daemons, aiortc's among them, would hold up the end of the process if one were stuck; so
    it ends hard, with status 1, after ``ENDING_TIME`` or a second signal. Raises ``OSError`` when the address is
    taken.
    """
    logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells every step of every pair of candidates
    last_resort = threading.Timer(ENDING_TIME, os._exit, [1])
    last_resort.daemon = True
    try:
        eventloop.run(_serve(config, last_resort))
    finally:
        last_resort.cancel()


async def _serve(config: Config, last_resort: threading.Timer) -> None:
    loop = asyncio.get_running_loop()
    told_to_end = asyncio.Event()

    def end() -> None:
        if told_to_end.is_set():
            os._exit(1)
        told_to_end.set()
        last_resort.start()

    runner = web.AppRunner(create_app(config), access_log=None, shutdown_timeout=REQUEST_TIME)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        await site.start()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end)
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"percepnet serves on http://{shown}:{port}", file=sys.stderr, flush=True)
        await told_to_end.wait()
        logger.info("ending")
    finally:
        await runner.cleanup()


async def _engine(app: web.Application) -> AsyncIterator[None]:
    config = app[CONFIG]
    loop = asyncio.get_running_loop()
    audiolevel.install()
    enhancer = await loop.run_in_executor(
        None, lambda: Enhancer(streams=config.max_calls, model=config.model)
    )
    engine = Engine(enhancer, streams=config.max_calls, queue_packets=config.queue_packets)
    await loop.run_in_executor(None, engine.start)
    app[ENGINE] = engine
    app[CALLS] = Calls(config, engine)
    yield
    await app[CALLS].close_all()
    await loop.run_in_executor(None, engine.stop)


async def _close_calls(app: web.Application) -> None:
    await app[CALLS].close_all()
