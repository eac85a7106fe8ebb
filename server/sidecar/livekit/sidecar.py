"""The sidecar beside LiveKit: a participant in any number of rooms; whatever ends begins anew."""

import asyncio
import logging
import os
from collections.abc import Callable

from server.backoff import Backoff
from server.engine import Engine
from server.waiting import first

from .. import figures, process
from ..following import RoomOver
from .options import LiveKitOptions
from .people import Person
from .room import Stay
from .twin import Twin

logger = logging.getLogger(__name__)


class Sidecar:
    """Enhances the people in the rooms that ``options`` name with ``engine``, until :meth:`run` is cancelled."""

    def __init__(self, options: LiveKitOptions, engine: Engine) -> None:
        self._options = options
        self._engine = engine
        self._stays: dict[str, Stay] = {}

    @property
    def connected(self) -> bool:
        """Whether it is in all rooms."""
        return all(room in self._stays and self._stays[room].joined for room in self._options.rooms)

    async def run(self) -> None:
        """Never returns. Cancelled, it leaves the rooms and gives back all it held."""
        await first(*(self._keep(room, token) for room, token in self._options.rooms.items()))

    def report(self) -> dict[str, object]:
        """Figures, ready for JSON."""
        return {
            "name": self._options.name,
            "connected": self.connected,
            "rooms": {room: stay.report() for room, stay in self._stays.items()},
            **figures.of_engine(self._engine),
        }

    async def _keep(self, room: str, token: Callable[[], str]) -> None:
        """Be in a room whenever that is possible."""
        backoff = Backoff()
        while True:
            stay = self._stays[room] = Stay(room, self._options.name, self._twin)
            try:
                await stay.live(self._options.url, await asyncio.to_thread(token))
            except (RoomOver, OSError, ValueError) as error:
                logger.warning("room %s: %s", room, str(error))
            except Exception:
                logger.exception("room %s: left", room)
            await backoff.pause()

    def _twin(self, stay: Stay, person: Person) -> Twin:
        return Twin(stay, person, self._engine, self._options.controls)


def serve(options: LiveKitOptions) -> None:
    """Run a sidecar until SIGINT or SIGTERM, then leave the rooms and end the process, with exit code 0."""
    logging.getLogger("livekit").setLevel(logging.WARNING)  # it tells every step of connecting
    process.serve(options, lambda engine: Sidecar(options, engine))
    logging.shutdown()
    os._exit(0)  # all is given back; the SDK's threads abort now and then when an interpreter ends under them
