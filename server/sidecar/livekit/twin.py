"""A participant's enhanced twin: a subscription to their microphone, the engine, and a track of the sidecar's own."""

import asyncio
import logging
from typing import Final

from server.controls import Controls
from server.engine import Engine
from server.waiting import cancelled, finished, first

from .. import figures
from ..claims import Feed, twin_display
from ..following import RoomOver, TwinFailed
from .marks import twin_attributes
from .people import Person
from .room import Stay
from .sdk import rtc
from .voice import Voice

SUBSCRIBING_TIME: Final = 15.0  # s
CLOSING_TIME: Final = 5.0  # s
GOING_TIME: Final = 1.0  # s from the end of a subscription to the news that its participant has gone

logger = logging.getLogger(__name__)


class Twin:
    """The twin of ``person``; :meth:`open` makes it, :meth:`close` gives back all it took, however far that was."""

    def __init__(self, stay: Stay, person: Person, engine: Engine, controls: Controls) -> None:
        self.id: Feed | None = None  # SID of its track
        self._stay = stay
        self._person = person
        self._engine = engine
        self._controls = controls
        self._voice: Voice | None = None
        self._running: asyncio.Task[None] | None = None
        self._subscribed = False
        self._track: rtc.Track | None = None  # that is heard

    async def open(self) -> None:
        """Subscribe and publish; raises :class:`TwinFailed`, ``EngineFull``, or ``RoomOver``.

        The voice runs before there is somebody to send to, and goes nowhere: else audio would pile up meanwhile.
        """
        microphone = self._person.microphone
        self._subscribed = True
        microphone.set_subscribed(True)
        try:
            async with asyncio.timeout(SUBSCRIBING_TIME):
                await self._stay.until(
                    lambda: microphone.track is not None or microphone.sid in self._stay.refused
                )
        except TimeoutError:
            raise TwinFailed(f"no audio {SUBSCRIBING_TIME:g} s after subscribing to it") from None
        if microphone.track is None:
            raise TwinFailed(f"LiveKit does not let it be heard: {self._stay.refused.pop(microphone.sid)}")
        self._track = microphone.track
        self._voice = Voice(self._track, twin_display(self._person.name), self._engine, self._controls)
        if microphone.muted:
            self._voice.track.mute()
        self._running = asyncio.create_task(self._voice.run(), name=f"voice of {self._person.id}")
        await finished(first(self._publish(self._voice), self._stay.over()))
        if self.id is None:
            raise RoomOver("it was left meanwhile")
        await self._stay.mark(twin_attributes(self._person.id, str(self.id)))

    async def ended(self) -> None:
        """Wait until the twin cannot go on; raises :class:`TwinFailed`."""
        assert self._voice is not None
        assert self._running is not None
        await first(self._heard(self._running), self._subscribed_to(), self._follow_muting(self._voice))

    async def close(self) -> None:
        if self._running is not None:
            await cancelled(self._running)
        try:
            async with asyncio.timeout(CLOSING_TIME):
                await first(self._withdraw(), self._stay.over())
        except Exception:
            logger.exception("the twin of %s was not withdrawn as it should", self._person.id)
            self._stay.lose("it may still have a twin that has ended")
        if self._voice is not None:
            try:
                async with asyncio.timeout(CLOSING_TIME):
                    await self._voice.close()
            except Exception:
                logger.exception("the voice of %s did not close as it should", self._person.id)

    def report(self) -> dict[str, object]:
        """Figures, ready for JSON. Levels in dBFS, times in ms."""
        if self._voice is None or self.id is None:
            return {"state": "connecting"}
        return {
            "state": "muted" if self._voice.track.muted else "connected",
            "twin": self.id,
            **figures.of_twin(self._voice.port, self._voice.skipped, self._voice.delays.percentiles_ms()),
        }

    async def _publish(self, voice: Voice) -> None:
        try:
            published = await self._stay.me.publish_track(voice.track, rtc.TrackPublishOptions())
        except rtc.participant.PublishTrackError as error:
            raise TwinFailed(f"LiveKit does not let it be published: {error}") from None
        self.id = published.sid

    async def _withdraw(self) -> None:
        """Give back what the room has of it."""
        if self._stay.is_over:
            return
        if self.id in self._stay.me.track_publications:
            await self._stay.me.unpublish_track(self.id)
        if self.id is not None:
            await self._stay.me.set_attributes(twin_attributes(self._person.id, ""))
        if self._subscribed and self._stay.has(self._person):
            self._person.microphone.set_subscribed(False)

    async def _heard(self, running: asyncio.Task[None]) -> None:
        await asyncio.shield(running)
        raise TwinFailed("the microphone brings no more audio")

    async def _subscribed_to(self) -> None:
        """The SDK's stream goes on without that, in silence."""
        microphone = self._person.microphone
        await self._stay.until(lambda: microphone.track is not self._track)
        await asyncio.sleep(GOING_TIME)
        raise TwinFailed("the subscription to the microphone has ended")

    async def _follow_muting(self, voice: Voice) -> None:
        """When the participant is muted or is no longer. A moderator may mute the twin besides."""
        microphone = self._person.microphone

        def turned() -> bool:
            return microphone.muted != muted

        muted = voice.track.muted  # as open() found it
        while True:
            await self._stay.until(turned)
            muted = microphone.muted
            (voice.track.mute if muted else voice.track.unmute)()
