"""One stay in a room of LiveKit, from joining it until it is lost: who is there, and twins of them.

The SDK mends a connection by itself where LiveKit still knows of it, and nothing is heard of that. Where it does
not, the SDK would join anew and publish all tracks again, though of whom they were twins may have gone meanwhile:
then this stay is over and another begins, with nothing left of the first.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from server.waiting import cancelled, finished, first

from ..following import Following, RoomOver, Twin, TwinFailed
from .marks import SIDECAR, sidecar_attributes
from .people import Person, person, sidecars, twins_there
from .sdk import rtc

CONNECTING_TIME: Final = 30.0  # s; the SDK gives up earlier by itself
MENDING_TIME: Final = 10.0  # s that the SDK has to mend a connection
MARKING_TIME: Final = 5.0  # s until LiveKit has told of new attributes
LEAVING_TIME: Final = 3.0  # s
CHANGES: Final = (
    "participant_connected",
    "participant_disconnected",
    "participant_attributes_changed",
    "track_published",
    "track_unpublished",
    "track_subscribed",
    "track_unsubscribed",
    "track_muted",
    "track_unmuted",
)  # after which there may be more or less to do

logger = logging.getLogger(__name__)


class Stay:
    """In the room ``name``, as the sidecar ``sidecar``; :meth:`live` is all of it."""

    def __init__(self, name: str, sidecar: str, make_twin: Callable[["Stay", Person], Twin]) -> None:
        self.joined = False
        self.refused: dict[str, str] = {}  # why microphones cannot be subscribed to, by SID
        self._name = name
        self._sidecar = sidecar
        self._make_twin = make_twin
        self._sdk = rtc.Room()
        self._following: Following[Person] = Following(name, sidecar)
        loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = loop.create_future()  # its exception says why
        self._mending: asyncio.TimerHandle | None = None
        self._newcomer = True
        for event in CHANGES:
            self._sdk.on(event, lambda *_: self._look())
        for event in ("participant_disconnected", "track_unpublished"):
            self._sdk.on(event, lambda *_: self._check_mending())
        self._sdk.on("track_subscription_failed", self._note_refusal)
        self._sdk.on("reconnecting", self._begin_mending)
        self._sdk.on("reconnected", self._end_mending)
        self._sdk.on("local_track_republished", lambda *_: self.lose("the SDK has joined it anew"))
        self._sdk.on("disconnected", lambda reason: self.lose(rtc.DisconnectReason.Name(reason)))

    @property
    def me(self) -> rtc.LocalParticipant:
        return self._sdk.local_participant

    @property
    def is_over(self) -> bool:
        return self._over.done()

    def report(self) -> dict[str, object]:
        """People and figures of the twins from here, ready for JSON."""
        state = "mending" if self._mending is not None else "joined" if self.joined else "joining"
        return {"state": state, **self._following.report()}

    async def live(self, url: str, token: str) -> None:
        """Be in the room until cancelled; raises :class:`RoomOver` where it cannot be joined, or is lost."""
        try:
            await self._join(url, token)
            if SIDECAR not in self.me.attributes:  # who has made the token does not know of it
                await self.mark(sidecar_attributes(self._sidecar))
            self.joined = True
            logger.info("room %s: joined as %s", self._name, self.me.identity)
            self._look()
            self._newcomer = False
            await asyncio.shield(self._over)
        except TwinFailed as error:
            raise RoomOver(str(error)) from None
        finally:
            self.joined = False
            await finished(self._leave())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the room's events bring."""
        await self._following.until(condition)

    async def over(self) -> None:
        """Wait until this stay is."""
        await asyncio.wait([self._over])

    def has(self, who: Person) -> bool:
        """Whether they are still there with that microphone."""
        participant = self._sdk.remote_participants.get(who.id)
        return participant is not None and who.track in participant.track_publications

    async def mark(self, attributes: dict[str, str]) -> None:
        """Give this participant attributes.

        Raises :class:`TwinFailed` where LiveKit does not take them, and :class:`RoomOver` when the room is lost.
        """
        await finished(first(self.me.set_attributes(attributes), self.over()))  # which tells of no refusal
        try:
            async with asyncio.timeout(MARKING_TIME):
                await self.until(lambda: self.is_over or attributes.items() <= self.me.attributes.items())
        except TimeoutError:
            raise TwinFailed(
                "LiveKit does not take attributes: the token must allow canUpdateOwnMetadata"
            ) from None
        if self.is_over:
            self._over.result()

    async def _join(self, url: str, token: str) -> None:
        joining = asyncio.create_task(self._sdk.connect(url, token, rtc.RoomOptions(auto_subscribe=False)))
        try:
            async with asyncio.timeout(CONNECTING_TIME):
                await asyncio.shield(joining)
        except TimeoutError:
            raise RoomOver(f"not connected after {CONNECTING_TIME:g} s") from None
        except rtc.ConnectError as error:
            raise RoomOver(error.message) from None
        finally:
            # Cancelled, the SDK would go on by itself, and nobody could leave the room.
            await asyncio.wait([joining], timeout=LEAVING_TIME)
            await cancelled(joining)

    async def _leave(self) -> None:
        self.lose("it was left")
        self._end_mending()
        try:
            async with asyncio.timeout(LEAVING_TIME):
                await self._sdk.disconnect()
        except Exception:
            logger.exception("room %s was not left as it should", self._name)
        await self._following.forget_all()

    def _look(self) -> None:
        """See who is there now, and what has become of the twins."""
        if not self.joined or self._over.done():
            self._following.changed()
            return
        others = self._sdk.remote_participants.values()
        self._following.twins = twins_there([*others, self.me])
        people = {found.id: found for found in map(person, others) if found is not None}
        for feed in set(self._following.publishers) - set(people):
            self._following.forget(feed)
        for found in people.values():
            self._following.follow(found, self._twin, self._sidecars, self._newcomer)
        self._following.changed()

    def _twin(self, who: Person) -> Twin:
        return self._make_twin(self, who)

    async def _sidecars(self) -> list[str]:
        return sidecars(self._sdk.remote_participants.values())

    def _note_refusal(self, _: Any, track: str, error: str) -> None:
        self.refused[track] = error
        self._following.changed()

    def _begin_mending(self) -> None:
        if self._mending is None:
            loop = asyncio.get_running_loop()
            self._mending = loop.call_later(MENDING_TIME, self.lose, "the connection is gone")

    def _check_mending(self) -> None:
        """Somebody is gone: of a connection that is mended, hardly ever."""
        if self._mending is not None:
            self.lose("the connection is gone, and LiveKit has forgotten it")

    def _end_mending(self) -> None:
        if self._mending is not None:
            self._mending.cancel()
            self._mending = None
        if self.joined and SIDECAR not in self.me.attributes:
            self.lose("LiveKit has forgotten what this participant is")

    def lose(self, reason: str) -> None:
        """Let the stay be over, if it is not: with another nothing is left of what went wrong."""
        if not self._over.done():
            self._over.set_exception(RoomOver(reason))
            self._over.exception()  # told to whoever waits; nobody has to
            self._following.changed()
