"""The sidecar beside Janus: one session with it, any number of rooms; whatever ends begins anew."""

import asyncio
import logging
from typing import Final

import aiohttp
from yarl import URL

from server.backoff import Backoff
from server.engine import Engine
from server.media import audiolevel, libopus
from server.waiting import first

from . import figures, process
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
        audiolevel.install()
        libopus.library()  # found now, not in the first call
        self._options = options
        self._engine = engine
        self._place = URL(options.url).origin()  # for logs: the rest may hold a password
        self._rooms = [Room(id, options.pin, options.name, self._twin) for id in options.rooms]

    @property
    def connected(self) -> bool:
        """Whether it is in all rooms."""
        return all(room.joined for room in self._rooms)

    async def run(self) -> None:
        """Never returns. Cancelled, it leaves the rooms and gives back all it held."""
        backoff = Backoff()
        while True:
            try:
                await self._session()
            except (SessionLost, JanusError, *BROKEN) as error:
                logger.warning("no session with %s: %s", self._place, str(error) or type(error).__name__)
            except Exception:
                logger.exception("the session with %s failed", self._place)
            await backoff.pause()

    def report(self) -> dict[str, object]:
        """Figures, ready for JSON."""
        return {
            "name": self._options.name,
            "connected": self.connected,
            "rooms": {str(room.room): room.report() for room in self._rooms},
            **figures.of_engine(self._engine),
        }

    async def _session(self) -> None:
        async with aiohttp.ClientSession() as http:
            async with asyncio.timeout(CONNECTING_TIME):
                transport = await connected(http, self._options.url)
            async with session(transport, self._options.authorization) as made:
                logger.info("in session with %s", self._place)
                await first(made.lost(), *(self._keep(room, made) for room in self._rooms))

    async def _keep(self, room: Room, made: Session) -> None:
        """Be in a room whenever it is there."""
        backoff = Backoff()
        while True:
            try:
                await room.live(made)
            except JanusError as error:
                logger.warning("room %s: %s", room.room, str(error))
            except Exception:
                logger.exception("room %s: left", room.room)
            await backoff.pause()

    def _twin(self, room: VideoRoom, publisher: Publisher) -> Twin:
        return Twin(room, publisher, self._engine, self._options.controls, self._options.ice_servers)


def serve(options: SidecarOptions) -> None:
    """Run a sidecar until SIGINT or SIGTERM, then leave the rooms and return."""
    logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells every step of every pair of candidates
    process.serve(options, lambda engine: Sidecar(options, engine))
