"""What a sidecar does in a room, whichever server it is on: a twin for each publisher whose turn is its own."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, Protocol, TypeAlias, TypeVar

from server.backoff import Backoff
from server.engine import EngineFull
from server.waiting import finished, first

from .claims import Feed, beaten, patience

logger = logging.getLogger(__name__)


class TwinFailed(Exception):
    """A twin cannot begin, or cannot go on."""


class RoomOver(Exception):
    """A room cannot be joined, or the sidecar is no longer in it: nothing that is in it can go on."""


class Publisher(Protocol):
    """Somebody who is to have a twin; another one where they are no longer equal."""

    @property
    def id(self) -> Feed: ...


class Twin(Protocol):
    """:meth:`open` makes it, :meth:`close` gives back all it took, however far that was."""

    id: Feed | None  # once others can see it

    async def open(self) -> None: ...

    async def ended(self) -> None:
        """Wait until it cannot go on; raises why."""

    async def close(self) -> None: ...

    def report(self) -> dict[str, object]:
        """Figures, ready for JSON."""


P = TypeVar("P", bound=Publisher)
Sidecars: TypeAlias = Callable[[], Awaitable[Iterable[str]]]  # names of those in the room


class Following(Generic[P]):
    """The publishers of ``room`` as the sidecar ``name`` sees them. See :mod:`.claims` for who enhances whom.

    ``told``: what a twin may raise besides :class:`TwinFailed` and ``EngineFull`` that is worth one line in the log.
    """

    def __init__(
        self,
        room: Feed,
        name: str,
        told: tuple[type[Exception], ...] = (),
    ) -> None:
        self.publishers: dict[Feed, P] = {}  # people
        self.twins: dict[Feed, str] = {}  # everybody's: the id of each, and of whom it is one
        self._room = room
        self._name = name
        self._told: tuple[type[Exception], ...] = (TwinFailed, EngineFull, *told)
        self._tasks: dict[Feed, asyncio.Task[None]] = {}  # that follow a publisher
        self._ending: dict[Feed, asyncio.Task[None]] = {}  # the last of those whose publisher has gone
        self._own: dict[Twin, Feed] = {}  # made here, and of whom
        self._news = asyncio.Event()  # replaced as it is set

    def report(self) -> dict[str, object]:
        """Publishers and figures of the twins from here, ready for JSON."""
        return {
            "publishers": len(self.publishers),
            "twins": {str(feed): twin.report() for twin, feed in self._own.items()},
        }

    def follow(
        self,
        publisher: P,
        make_twin: Callable[[P], Twin],
        sidecars: Sidecars,
        newcomer: bool,
    ) -> None:
        """Enhance ``publisher`` whenever it is this sidecar's turn, until that one is forgotten.

        ``newcomer``: whether the publisher was there before this sidecar.
        """
        if publisher == self.publishers.get(publisher.id):
            return
        self.forget(publisher.id)
        self.publishers[publisher.id] = publisher
        self._tasks[publisher.id] = asyncio.create_task(
            self._follow(publisher, make_twin, sidecars, newcomer, self._ending.get(publisher.id)),
            name=f"room {self._room}: publisher {publisher.id}",
        )

    def forget(self, feed: Feed) -> None:
        """Who has gone, or is none."""
        if self.publishers.pop(feed, None) is not None:
            task = self._ending[feed] = self._tasks.pop(feed)
            task.cancel()
            task.add_done_callback(lambda _: self._ended(feed, task))

    def _ended(self, feed: Feed, task: asyncio.Task[None]) -> None:
        if self._ending.get(feed) is task:
            del self._ending[feed]

    async def forget_all(self) -> None:
        """Wait until nothing is left."""
        for feed in list(self.publishers):
            self.forget(feed)
        await asyncio.gather(*self._ending.values(), return_exceptions=True)
        self.twins.clear()

    def changed(self) -> None:
        """Let those look again who wait :meth:`until` something is so."""
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()

    async def _follow(
        self,
        publisher: P,
        make_twin: Callable[[P], Twin],
        sidecars: Sidecars,
        newcomer: bool,
        before: asyncio.Task[None] | None,
    ) -> None:
        """``before`` has followed the same feed: what it gives back must not be what this one has taken."""
        if before is not None:
            await finished(asyncio.wait([before]))
        backoff = Backoff()
        while True:
            try:
                await self._turn(publisher.id, sidecars, newcomer)
                newcomer = False
                await self._enhance(publisher, make_twin)
            except RoomOver:
                return
            except self._told as error:
                # its text alone: who keeps log records would keep all that the error went through
                logger.warning("room %s: no twin of publisher %s: %s", self._room, publisher.id, str(error))
            except Exception:
                logger.exception("room %s: the twin of publisher %s failed", self._room, publisher.id)
            await backoff.pause()

    async def _turn(self, feed: Feed, sidecars: Sidecars, newcomer: bool) -> None:
        """Wait until nobody enhances the publisher and it is this sidecar's turn to do so."""
        while True:
            while self._twins_of(feed):
                newcomer = False
                await self.until(lambda: not self._twins_of(feed))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience(self._name, feed, await sidecars(), newcomer)):
                    await self.until(lambda: bool(self._twins_of(feed)))
            if not self._twins_of(feed):
                return

    async def _enhance(self, publisher: P, make_twin: Callable[[P], Twin]) -> None:
        """Keep a twin until another's takes its place; raises what ends it otherwise."""
        twin = make_twin(publisher)
        self._own[twin] = publisher.id
        try:
            await twin.open()
            logger.info("room %s: publisher %s has twin %s", self._room, publisher.id, twin.id)
            await first(twin.ended(), self.until(lambda: self._beaten(publisher.id, twin)))
            logger.info("room %s: twin %s leaves the publisher to another", self._room, twin.id)
        finally:
            del self._own[twin]
            await finished(twin.close())

    def _beaten(self, feed: Feed, twin: Twin) -> bool:
        return twin.id is not None and beaten(twin.id, self._twins_of(feed))

    def _twins_of(self, feed: Feed) -> list[Feed]:
        return [twin for twin, of in self.twins.items() if of == str(feed)]
