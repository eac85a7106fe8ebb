"""A sidecar in one room: it follows the publishers there, and keeps a twin of each whose turn is its own."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from server.backoff import Backoff
from server.ending import first
from server.engine import EngineFull

from .claims import beaten, enhanced_feed, patience, sidecar_display
from .janus import Handle, JanusError, Session, SessionLost
from .owning import finished
from .transport import Message
from .twin import Twin, TwinFailed
from .videoroom import Feed, Publisher, VideoRoom

MakeTwin = Callable[[VideoRoom, Publisher], Twin]

logger = logging.getLogger(__name__)


class Room:
    """Room ``room`` as the sidecar ``name`` sees it. See :mod:`.claims` for who enhances whom."""

    def __init__(self, room: Feed, pin: str | None, name: str, make_twin: MakeTwin) -> None:
        self.room = room
        self._pin = pin
        self._name = name
        self._make_twin = make_twin
        self._publishers: dict[Feed, Publisher] = {}  # people
        self._twins: dict[Feed, str] = {}  # everybody's: the id of each, and of whom it is one
        self._tasks: dict[Feed, asyncio.Task[None]] = {}  # that follow a publisher
        self._ending: set[asyncio.Task[None]] = set()  # those whose publisher has gone
        self._own: dict[Twin, Feed] = {}  # made here, and of whom
        self._news = asyncio.Event()  # replaced as it is set
        self._over: str | None = None  # why the room, or being in it, has come to its end

    def report(self) -> dict[str, object]:
        """Publishers and figures of the twins from here, ready for JSON."""
        return {
            "publishers": len(self._publishers),
            "twins": {str(feed): twin.report() for twin, feed in self._own.items()},
        }

    async def live(self, session: Session) -> None:
        """Be in the room until cancelled; raises ``JanusError`` where it cannot be joined, or is over."""
        room = VideoRoom(session, self.room, self._pin)
        handle = await room.attach(lambda event: self._hear(room, handle, event))
        try:
            joined = await room.join(handle, sidecar_display(self._name))
            logger.info("room %s: joined as %s", self.room, self._name)
            self._take(room, handle, joined, newcomer=True)
            await self._until(lambda: self._over is not None)
            raise JanusError(0, str(self._over))
        finally:
            await finished(self._leave(handle))

    async def _leave(self, handle: Handle) -> None:
        for feed in list(self._publishers):
            self._forget(feed)
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._twins.clear()
        self._over = None
        await handle.detach()

    def _hear(self, room: VideoRoom, handle: Handle, event: Message) -> None:
        data: Message = event.get("plugindata", {}).get("data", {})
        if event["janus"] == "detached" or data.get("videoroom") == "destroyed":
            self._over = "the room is over"
        elif data.get("leaving") == "ok":
            self._over = f"no longer in the room: {data.get('reason', 'left')}"
        else:
            for gone in {data[word] for word in ("unpublished", "leaving", "kicked") if word in data}:
                self._twins.pop(gone, None)
                self._forget(gone)
            self._take(room, handle, data)
        self._changed()

    def _take(self, room: VideoRoom, handle: Handle, data: Message, newcomer: bool = False) -> None:
        """What an event says of who publishes."""
        speaking, silent = Publisher.listed(data)
        for feed in silent:
            self._forget(feed)
        for publisher in speaking:
            if (of := enhanced_feed(publisher.description)) is not None:
                self._twins[publisher.id] = of
            elif publisher != self._publishers.get(publisher.id):
                self._forget(publisher.id)
                self._publishers[publisher.id] = publisher
                self._tasks[publisher.id] = asyncio.create_task(
                    self._follow(room, handle, publisher, newcomer),
                    name=f"room {self.room}: publisher {publisher.id}",
                )

    def _forget(self, feed: Feed) -> None:
        if self._publishers.pop(feed, None) is not None:
            task = self._tasks.pop(feed)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _follow(self, room: VideoRoom, handle: Handle, publisher: Publisher, newcomer: bool) -> None:
        """Enhance ``publisher`` whenever it is this sidecar's turn, until cancelled."""
        backoff = Backoff()
        while True:
            try:
                await self._turn(room, handle, publisher.id, newcomer)
                newcomer = False
                await self._enhance(room, publisher)
            except SessionLost:
                return  # all of the room is over
            except (TwinFailed, EngineFull, JanusError, ValueError) as error:
                logger.warning("room %s: no twin of publisher %s: %s", self.room, publisher.id, error)
            except Exception:
                logger.exception("room %s: the twin of publisher %s failed", self.room, publisher.id)
            await backoff.pause()

    async def _turn(self, room: VideoRoom, handle: Handle, feed: Feed, newcomer: bool) -> None:
        """Wait until nobody enhances the publisher and it is this sidecar's turn to do so."""
        while True:
            while self._twins_of(feed):
                newcomer = False
                await self._until(lambda: not self._twins_of(feed))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience(self._name, feed, await room.names(handle), newcomer)):
                    await self._until(lambda: bool(self._twins_of(feed)))
            if not self._twins_of(feed):
                return

    async def _enhance(self, room: VideoRoom, publisher: Publisher) -> None:
        """Keep a twin until another's takes its place; raises what ends it otherwise."""
        twin = self._make_twin(room, publisher)
        self._own[twin] = publisher.id
        try:
            await twin.open()
            logger.info("room %s: publisher %s has twin %s", self.room, publisher.id, twin.id)
            await first(twin.ended(), self._until(lambda: self._beaten(publisher.id, twin)))
            logger.info("room %s: twin %s leaves the publisher to another", self.room, twin.id)
        finally:
            del self._own[twin]
            await finished(twin.close())

    def _beaten(self, feed: Feed, twin: Twin) -> bool:
        return twin.id is not None and beaten(twin.id, self._twins_of(feed))

    def _twins_of(self, feed: Feed) -> list[Feed]:
        return [twin for twin, of in self._twins.items() if of == str(feed)]

    def _changed(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._news.wait()
