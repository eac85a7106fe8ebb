"""A sidecar in one room of Janus: what it hears there, and when it is over."""

import logging
from collections.abc import Callable

from server.waiting import finished

from .claims import Feed, enhanced_feed, sidecar_display, sidecar_name
from .following import Following
from .janus import Handle, JanusError, Session
from .transport import Message
from .twin import Twin
from .videoroom import Publisher, VideoRoom

MakeTwin = Callable[[VideoRoom, Publisher], Twin]

logger = logging.getLogger(__name__)


class Room:
    """Room ``room`` as the sidecar ``name`` sees it."""

    def __init__(self, room: Feed, pin: str | None, name: str, make_twin: MakeTwin) -> None:
        self.room = room
        self.joined = False
        self._pin = pin
        self._name = name
        self._make_twin = make_twin
        self._following: Following[Publisher] = Following(room, name, told=(JanusError, ValueError))
        self._over: str | None = None  # why the room, or being in it, has come to its end
        self._early: list[Message] | None = None  # events that came before the answer to joining was read

    def report(self) -> dict[str, object]:
        """Publishers and figures of the twins from here, ready for JSON."""
        return {"state": "joined" if self.joined else "joining", **self._following.report()}

    async def live(self, session: Session) -> None:
        """Be in the room until cancelled; raises ``JanusError`` where it cannot be joined, or is over."""
        room = VideoRoom(session, self.room, self._pin)
        handle = await room.attach(lambda event: self._hear(room, handle, event))
        try:
            self._early = []
            answer = await room.join(handle, sidecar_display(self._name))
            logger.info("room %s: joined as %s", self.room, self._name)
            self.joined = True
            self._take(room, handle, answer, newcomer=True)
            early, self._early = self._early, None
            for event in early:
                self._hear(room, handle, event)
            await self._following.until(lambda: self._over is not None)
            raise JanusError(0, str(self._over))
        finally:
            await finished(self._leave(handle))

    async def _leave(self, handle: Handle) -> None:
        self.joined = False
        self._early = None
        await self._following.forget_all()
        self._over = None
        await handle.detach()

    def _hear(self, room: VideoRoom, handle: Handle, event: Message) -> None:
        if self._early is not None:
            self._early.append(event)
            return
        data: Message = event.get("plugindata", {}).get("data", {})
        if event["janus"] == "detached" or data.get("videoroom") == "destroyed":
            self._over = "the room is over"
        elif data.get("leaving") == "ok":
            self._over = f"no longer in the room: {data.get('reason', 'left')}"
        else:
            for gone in {data[word] for word in ("unpublished", "leaving", "kicked") if word in data}:
                self._following.twins.pop(gone, None)
                self._following.forget(gone)
            self._take(room, handle, data)
        self._following.changed()

    def _take(self, room: VideoRoom, handle: Handle, data: Message, newcomer: bool = False) -> None:
        """What an event says of who publishes."""

        async def sidecars() -> list[str]:
            names = (sidecar_name(display) for display in await room.names(handle))
            return [name for name in names if name is not None]

        speaking, silent = Publisher.listed(data)
        for feed in silent:
            self._following.forget(feed)
        for publisher in speaking:
            if (of := enhanced_feed(publisher.description)) is not None:
                self._following.twins[publisher.id] = of
            else:
                self._following.follow(
                    publisher, lambda publisher: self._make_twin(room, publisher), sidecars, newcomer
                )
