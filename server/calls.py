"""The calls of a process: who is let in, where each is found, and what all of them did."""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from .call import Call, TooManyCalls
from .config import Config
from .engine import Engine, EngineFull
from .logs import about
from .offer import Offer, OfferError
from .rooms import Alone, Rooms, Seat
from .totals import Totals

LISTENERS: Final = 16  # that cost the event loop as much as a voice costs in all
RESERVE: Final = 1.25  # of the rated load, for listeners: voices that nobody may hear would be no use

logger = logging.getLogger(__name__)


class Calls:
    """The calls of worker ``worker``, by id: up to ``rated_calls``, while the engine is in time."""

    def __init__(self, config: Config, engine: Engine, rated_calls: int, worker: int = 0) -> None:
        self.worker = worker
        self.rooms = Rooms(config.opus)
        self.on_caller: Callable[[str, bool], object] = lambda caller, began: None  # told of each address
        self.draining = False  # set to take no more
        self._config = config
        self._engine = engine
        self.rated = min(rated_calls, config.max_calls)
        self._began = self._refused = 0  # offers, since start
        self._over = Totals()  # of calls that are over
        self._calls: dict[str, Call] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._callers: Counter[str] = Counter()
        self._opening: set[Call] = set()
        self._closing = False
        self._none = asyncio.Event()
        self._none.set()

    def __len__(self) -> int:
        return len(self._tasks) + len(self._opening)

    def __iter__(self) -> Iterator[Call]:
        """Those that are open."""
        return iter(list(self._calls.values()))

    @property
    def voices(self) -> int:
        """Calls that are enhanced, which is what the limit is for."""
        return len(self) - self.listeners

    @property
    def listeners(self) -> int:
        """Calls that have no voice of their own, and so no share of the engine."""
        every = (*self._opening, *self._calls.values())
        return sum(call.seat.direction == "recvonly" for call in every)

    @property
    def load(self) -> float:
        """What all of them cost, in calls with a voice."""
        return self.voices + self.listeners / LISTENERS

    def get(self, id: str) -> Call:
        """The call of that id; raises ``KeyError``."""
        return self._calls[id]

    def of(self, caller: str) -> int:
        """How many calls an address has."""
        return self._callers[caller]

    async def open(self, offer: Offer, caller: str = "", seated: Callable[[], Seat] = Alone) -> Call:
        """Answer an offer of that address, from the seat that ``seated`` finds for it.

        Raises what that raises, :class:`OfferError` or :class:`TooManyCalls`, and holds nothing then.
        """
        try:
            self._admit(offer)
            return await self._opened(offer, caller, seated())
        except TooManyCalls:
            self._refused += 1
            raise

    async def _opened(self, offer: Offer, caller: str, seat: Seat) -> Call:
        try:
            call = Call(self._config, self._engine, self.worker, seat)
        except BaseException:
            await seat.leave()
            raise
        self._opening.add(call)
        self._none.clear()
        try:
            with about(str(call)):
                try:
                    await call.open(offer)
                except (OfferError, TooManyCalls):
                    raise
                except EngineFull as error:
                    raise TooManyCalls(str(error)) from error
                except OSError as error:  # no descriptors are left, or no memory
                    logger.warning("a call has no room: %s", error)
                    raise TooManyCalls(
                        f"this process has no room for it: {error.strerror or error}"
                    ) from error
                except Exception as error:  # what aiortc raises for an offer is not documented
                    logger.info("an offer cannot be answered", exc_info=True)
                    raise OfferError(f"the offer cannot be answered: {error}") from error
                if self._closing:
                    call.end()
                    await call.live()  # to its end, which is now
                    raise TooManyCalls("the server has ended")
                self._calls[call.id] = call
                self._tasks[call.id] = asyncio.create_task(self._live(call, caller), name=f"call {call}")
            self._count(caller, True)
            self._began += 1
        finally:
            self._opening.discard(call)
            self._changed()
        return call

    def figures(self) -> dict[str, object]:
        """How loaded the process is with calls, ready for JSON."""
        totals = self._over.copy()
        for call in self:
            call.count(totals)
        return {
            "calls": self.voices,
            "listeners": self.listeners,
            "rated_calls": self.rated,
            "max_calls": self._config.max_calls,
            "shed": self._engine.shed_calls,
            "failed": self._engine.failed_calls,
            "refused": self._refused,
            "began": self._began,
            "sheds": self._engine.sheds,
            **totals.as_dict(),
            "batches": self._engine.batches.counts(),
            "step_ms": self._engine.batches.step_ms(),
            "step_s": self._engine.batches.step_s.as_dict(),
            "draining": self.draining,
        }

    def _admit(self, offer: Offer) -> None:
        if self.draining:
            raise TooManyCalls("the server is ending", math.ceil(self._config.drain_time))
        if not self._engine.alive:
            raise TooManyCalls("the engine of this process has died")
        if offer.direction == "recvonly":
            if self.listeners >= self._config.max_listeners:
                raise TooManyCalls(f"this process takes {self._config.max_listeners} listeners at a time")
            if self.load >= RESERVE * self.rated:
                raise TooManyCalls(
                    f"this process is full: {self.voices} calls and {self.listeners} listeners"
                )
        elif self.load >= self.rated:
            raise TooManyCalls(
                f"this process takes {self.rated} calls at a time, {LISTENERS} listeners for one"
            )
        if self._engine.overloaded:
            raise TooManyCalls(f"this process is late with the {len(self)} calls it has")

    async def close(self, id: str) -> None:
        """End a call and wait until it has given back what it held; raises ``KeyError``."""
        task = self._tasks[id]
        self._calls[id].end()
        await asyncio.shield(task)

    async def ended(self) -> None:
        """Wait until there is none."""
        await self._none.wait()

    async def close_all(self) -> None:
        """End all calls, and take no more."""
        self.draining = self._closing = True
        for call in self._calls.values():
            call.end()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _live(self, call: Call, caller: str) -> None:
        try:
            await call.live()
        except Exception:
            logger.exception("failed")
        finally:
            call.count(self._over)
            del self._calls[call.id], self._tasks[call.id]
            self._count(caller, False)
            self._changed()

    def _count(self, caller: str, began: bool) -> None:
        self._callers[caller] += 1 if began else -1
        if not self._callers[caller]:
            del self._callers[caller]
        self.on_caller(caller, began)

    def _changed(self) -> None:
        if not len(self):
            self._none.set()
