"""The sidecar beside LiveKit, with LiveKit's own SDK on all sides, in the rooms of a small server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from calling import until
from numpy.typing import NDArray
from twin_voice import enhanced_voice, is_the_enhanced

from server.overload import Overload
from server.sidecar.process import running_engine

pytest.importorskip("livekit.rtc")
pytest.importorskip("livekit.protocol")

from livekit_people import Listener, Pcm, Speaker, Watcher
from livekit_server import KEY, ROOM, SECRET, LiveKitServer

from server.sidecar.livekit.options import LiveKitOptions
from server.sidecar.livekit.sidecar import Sidecar
from server.sidecar.livekit.token import signed


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine would turn twins dry: overload has tests on a clock of its own."""
    monkeypatch.setattr(Overload, "note", lambda *_: 0)


@pytest.fixture(scope="module")
def enhanced(noisy: NDArray[np.float32]) -> NDArray[np.float32]:
    return enhanced_voice(noisy)


@asynccontextmanager
async def sidecar(livekit: LiveKitServer, name: str = "one", publishers: int = 4) -> AsyncIterator[Sidecar]:
    def token() -> str:
        return signed(
            KEY,
            SECRET,
            room=ROOM,
            identity=f"sidecar-{name}",
            name=name,
            attributes={"percepnet.sidecar": name},
        )

    options = LiveKitOptions(url=livekit.url, rooms={ROOM: token}, name=name, publishers=publishers)
    async with running_engine(options) as engine:
        made = Sidecar(options, engine)
        running = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def assert_enhanced(watcher: Watcher, speech: Pcm, enhanced: NDArray[np.float32]) -> None:
    """3 s on end of Alice's twin are; on a busy machine not the first, as every hole is a difference."""
    async with Listener(await watcher.twin("alice")) as listener:
        for _ in range(5):
            if is_the_enhanced(speech, enhanced, await listener.hear(150)):
                return
    raise AssertionError("what Alice's twin says is not the enhanced voice")


async def test_the_twin_is_the_enhanced_voice_and_is_muted_and_leaves_with_its_participant(
    speech: Pcm, enhanced: NDArray[np.float32]
) -> None:
    async with LiveKitServer() as livekit, sidecar(livekit) as made, Watcher(livekit) as watcher:
        async with Speaker(livekit, "alice", "Alice", speech) as alice:
            twin = await watcher.twin("alice")
            assert twin.name == "Alice (enhanced)"
            await assert_enhanced(watcher, speech, enhanced)
            (report,) = made.report()["rooms"][ROOM]["twins"].values()
            assert (report["state"], report["enhancement"]) == ("connected", "on")
            alice.track.mute()
            await until(lambda: twin.muted, "the twin is muted")
            alice.track.unmute()
            await until(lambda: not twin.muted, "the twin speaks again")
        await until(lambda: not watcher.twins("alice"), "the twin leaves")
        await until(lambda: not livekit.person("sidecar-one").published, "its track, too")
