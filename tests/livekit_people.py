"""People in a LiveKit room, with LiveKit's SDK: they speak a recording, and listen to others."""

import asyncio
import itertools
from typing import Any, Self

import numpy as np
from calling import TIMEOUT, until
from livekit import rtc
from livekit_server import KEY, ROOM, SECRET, LiveKitServer

from percepnet.framing import Pcm
from server.frames import PACKET
from server.sidecar.livekit.people import twins_there
from server.sidecar.livekit.token import signed
from server.waiting import cancelled


class Somebody:
    """Is in the room, inside ``async with``."""

    def __init__(self, livekit: LiveKitServer, identity: str, name: str) -> None:
        self.room = rtc.Room()
        self._url = livekit.url
        self._token = signed(KEY, SECRET, room=ROOM, identity=identity, name=name, attributes={})

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(TIMEOUT):
            await self.room.connect(self._url, self._token, rtc.RoomOptions(auto_subscribe=False))
        return self

    async def __aexit__(self, *error: object) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.room.disconnect()


class Speaker(Somebody):
    """Publishes ``pcm`` again and again as a microphone."""

    def __init__(self, livekit: LiveKitServer, identity: str, name: str, pcm: Pcm) -> None:
        super().__init__(livekit, identity, name)
        self._pcm = pcm

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._source = rtc.AudioSource(48_000, 1, queue_size_ms=200)
        self.track = rtc.LocalAudioTrack.create_audio_track("microphone", self._source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        async with asyncio.timeout(TIMEOUT):
            await self.room.local_participant.publish_track(self.track, options)
        self._speaking = asyncio.create_task(self._speak())
        return self

    async def __aexit__(self, *error: object) -> None:
        await cancelled(self._speaking)
        await super().__aexit__(*error)
        await self._source.aclose()

    async def _speak(self) -> None:
        for start in itertools.count(0, PACKET):
            part = np.take(self._pcm, range(start, start + PACKET), mode="wrap")
            await self._source.capture_frame(rtc.AudioFrame(part.tobytes(), 48_000, 1, PACKET))


class Watcher(Somebody):
    """Sees what LiveKit tells of who publishes."""

    def __init__(self, livekit: LiveKitServer) -> None:
        super().__init__(livekit, "watcher", "Watcher")

    def twins(self, identity: str) -> list[rtc.RemoteTrackPublication]:
        """Of that participant."""
        people = self.room.remote_participants.values()
        tracks = {sid: track for person in people for sid, track in person.track_publications.items()}
        return [tracks[sid] for sid, of in twins_there(people).items() if of == identity]

    async def twin(self, identity: str) -> rtc.RemoteTrackPublication:
        """The only one."""
        await until(lambda: len(self.twins(identity)) == 1, f"one twin of {identity}")
        return self.twins(identity)[0]


class Listener:
    """Hears a track, inside ``async with``."""

    def __init__(self, publication: rtc.RemoteTrackPublication) -> None:
        self._publication = publication
        self._stream: Any = None

    async def __aenter__(self) -> Self:
        self._publication.set_subscribed(True)
        await until(lambda: self._publication.track is not None, "a subscription")
        self._stream = rtc.AudioStream(
            self._publication.track, sample_rate=48_000, num_channels=1, frame_size_ms=20
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stream.aclose()

    async def hear(self, packets: int) -> Pcm:
        """The next ones, of 20 ms."""
        async with asyncio.timeout(TIMEOUT):
            heard = [(await anext(self._stream)).frame.data for _ in range(packets)]
        return np.frombuffer(b"".join(heard), np.int16)
