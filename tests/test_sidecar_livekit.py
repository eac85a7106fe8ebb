"""The sidecar beside LiveKit, with LiveKit's own SDK on all sides, in the rooms of a small server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from calling import PACKET, TIMEOUT, at_work, given_back, holdings, unlikeness_db, until
from processes import program
from twin_voice import HEARD, enhanced_voice, is_the_enhanced

from percepnet import Enhancer
from server.loadtest.hearing import lag
from server.overload import Overload
from server.sidecar.process import running_engine

pytest.importorskip("livekit.rtc")
pytest.importorskip("livekit.protocol")

from livekit import rtc
from livekit_people import Listener, Speaker, Watcher
from livekit_server import KEY, ROOM, SECRET, LiveKitServer

from percepnet.framing import Float, Pcm
from server.sidecar.livekit.options import LiveKitOptions
from server.sidecar.livekit.sidecar import Sidecar
from server.sidecar.livekit.token import signed
from server.sidecar.livekit.twin import Twin


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine would turn twins dry: overload and standstill have tests of their own."""
    monkeypatch.setattr(Overload, "note", lambda *_: 0)
    monkeypatch.setattr("server.engine.STANDSTILL", TIMEOUT)


@pytest.fixture(scope="module")
def enhanced(noisy: Float) -> Float:
    return enhanced_voice(noisy)


@asynccontextmanager
async def sidecar(
    livekit: LiveKitServer, name: str = "one", *, secret: str = SECRET, publishers: int = 4
) -> AsyncIterator[Sidecar]:
    def token() -> str:
        return signed(KEY, secret, room=ROOM, identity=name, name=name, attributes={})

    options = LiveKitOptions(url=livekit.url, rooms={ROOM: token}, name=name, publishers=publishers)
    async with running_engine(options) as engine:
        made = Sidecar(options, engine)
        async with at_work(made.run()):
            yield made


def room(made: Sidecar) -> dict[str, Any]:
    """What a sidecar tells of the room."""
    return made.report()["rooms"][ROOM]  # type: ignore[index]


def twins(made: Sidecar) -> dict[str, dict[str, Any]]:
    """And of the twins it makes, by whose they are."""
    return room(made)["twins"]


async def assert_heard(watcher: Watcher, wanted: Callable[[Pcm], bool], what: str) -> None:
    """3 s on end of Alice's twin are as wanted; on a busy machine not all, as every hole is a difference."""
    async with Listener(await watcher.twin("alice")) as listener:
        heard = await listener.hear(100)
        for _ in range(50):
            heard = np.concatenate([heard, await listener.hear(50)])[-150 * PACKET :]
            if await asyncio.to_thread(wanted, heard):
                return
    raise AssertionError(f"what Alice's twin says is not {what}")


async def test_the_twin_is_the_enhanced_voice_and_is_muted_and_leaves_with_its_participant(
    speech: Pcm, enhanced: Float
) -> None:
    async with LiveKitServer() as livekit, sidecar(livekit) as made, Watcher(livekit) as watcher:
        async with Speaker(livekit, "alice", "Alice", speech) as alice:
            twin = await watcher.twin("alice")
            assert twin.name == "Alice (enhanced)"
            await assert_heard(
                watcher, lambda heard: is_the_enhanced(speech, enhanced, heard), "the enhanced voice"
            )
            assert (twins(made)["alice"]["state"], twins(made)["alice"]["enhancement"]) == ("connected", "on")
            alice.track.mute()
            await until(lambda: twin.muted, "the twin is muted")
            alice.track.unmute()
            await until(lambda: not twin.muted, "the twin speaks again")
        await until(lambda: not watcher.twins("alice"), "the twin leaves")
        await until(lambda: not livekit.person("one").published, "its track, too")


async def test_a_twin_follows_who_was_unmuted_while_it_was_published() -> None:
    changed = asyncio.Event()
    microphone, track = SimpleNamespace(muted=False), SimpleNamespace(muted=True)
    track.mute, track.unmute = (partial(setattr, track, "muted", muted) for muted in (True, False))

    async def condition_met(condition: Callable[[], bool]) -> None:
        while not condition():
            changed.clear()
            await changed.wait()

    twin = SimpleNamespace(
        _person=SimpleNamespace(microphone=microphone), _stay=SimpleNamespace(until=condition_met)
    )
    async with at_work(Twin._follow_muting(twin, SimpleNamespace(track=track))):
        for muted in (False, True, False):
            microphone.muted = muted
            changed.set()
            await until(lambda muted=muted: track.muted == muted, "the twin follows")


async def test_where_enhancement_fails_the_twin_is_the_dry_voice_also_on_an_old_server(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_dry(heard: Pcm) -> bool:
        said = np.resize(speech, HEARD)
        late = lag(said, heard)
        return late is not None and unlikeness_db(heard, np.roll(said, late)[: len(heard)]) < 2.5

    async with LiveKitServer(connections=2) as livekit, sidecar(livekit) as made, Watcher(livekit) as watcher:

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("a test")

        monkeypatch.setattr(Enhancer, "process", broken)
        async with Speaker(livekit, "alice", "Alice", speech):
            await assert_heard(watcher, is_dry, "the dry voice")
            assert twins(made)["alice"]["enhancement"] == "failed"


async def test_twins_go_on_when_a_connection_is_mended(speech: Pcm) -> None:
    async with (
        LiveKitServer() as livekit,
        sidecar(livekit) as made,
        Watcher(livekit) as watcher,
        Speaker(livekit, "alice", "Alice", speech),
    ):
        twin = await watcher.twin("alice")
        async with Listener(twin) as listener:
            await livekit.person("one").cut()
            await until(lambda: room(made)["state"] == "mending", "the sidecar knows")
            await until(lambda: room(made)["state"] == "joined", "the connection is mended", 60)
            packets = twins(made)["alice"]["packets"]["out"]
            await until(lambda: twins(made)["alice"]["packets"]["out"] > packets + 50, "the twin goes on")
            await listener.hear(5)
        assert (await watcher.twin("alice")).sid == twin.sid


async def test_a_killed_server_gets_its_twins_back(speech: Pcm) -> None:
    async def killed(livekit: LiveKitServer, made: Sidecar) -> None:
        async with Watcher(livekit) as watcher, Speaker(livekit, "alice", "Alice", speech):
            async with Listener(await watcher.twin("alice")) as listener:
                await listener.hear(5)
            await livekit.kill()
            await until(lambda: not made.connected, "the sidecar knows")

    before: dict[str, int] = {}
    async with LiveKitServer() as livekit, sidecar(livekit) as made:
        for _ in range(2):
            await killed(livekit, made)
            await livekit.start()
            await until(lambda: made.connected, "the sidecar is back", 60)
            if before:
                await given_back(before)
            before = before or holdings()
            for name in ("threads", "file descriptors"):  # the SDK's, which is long in giving up a server
                before.pop(name, None)


async def test_two_sidecars_make_one_twin_and_none_of_twins_and_the_other_takes_over(speech: Pcm) -> None:
    async with LiveKitServer() as livekit, Watcher(livekit) as watcher, AsyncExitStack() as stack:
        ends = {name: await stack.enter_async_context(AsyncExitStack()) for name in ("one", "two")}
        made = {name: await end.enter_async_context(sidecar(livekit, name)) for name, end in ends.items()}
        await until(lambda: all(each.connected for each in made.values()), "both are there")
        await stack.enter_async_context(Speaker(livekit, "alice", "Alice", speech))
        first = (await watcher.twin("alice")).sid
        (maker,) = (name for name, each in made.items() if twins(each))
        microphone = next(iter(livekit.person("alice").published))
        asked_for = {track for name in made for track in livekit.person(name).asked_for}
        assert asked_for == {microphone}
        await ends[maker].aclose()
        (other,) = made.keys() - {maker}
        await until(
            lambda: [twin.sid for twin in watcher.twins("alice")] not in ([first], []), "another twin"
        )
        assert list(twins(made[other])) == ["alice"]
        assert livekit.person(other).asked_for == [microphone]


@pytest.mark.parametrize("when", ["while the twin is marked", "later"])
async def test_a_twin_goes_on_under_its_name_when_its_participant_takes_another(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    marked = asyncio.Event()
    set_attributes = rtc.LocalParticipant.set_attributes

    async def marking(self: rtc.LocalParticipant, attributes: dict[str, str]) -> None:
        if any(attributes.values()) and "percepnet.sidecar" not in attributes:
            marked.set()
        await set_attributes(self, attributes)

    monkeypatch.setattr(rtc.LocalParticipant, "set_attributes", marking)
    async with LiveKitServer() as livekit, sidecar(livekit) as made, Watcher(livekit) as watcher:
        await until(lambda: made.connected, "the sidecar is there")
        async with Speaker(livekit, "alice", "Alice", speech):
            if when == "later":
                await watcher.twin("alice")
            else:
                async with asyncio.timeout(TIMEOUT):
                    await marked.wait()
            livekit.person("alice").info.name = "Alicia"
            await livekit.rooms[ROOM].tell(livekit.person("alice"))
            await until(
                lambda: watcher.room.remote_participants["alice"].name == "Alicia", "everybody is told"
            )
            twin = await watcher.twin("alice")
            async with Listener(twin) as listener:
                await listener.hear(50)
            assert [each.name for each in watcher.twins("alice")] == [twin.name]
            assert twin.name == "Alice (enhanced)"
            assert twins(made)["alice"]["level"]["in_dbfs"] > -60


async def test_a_twin_whose_subscription_ends_is_made_anew(
    speech: Pcm, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        LiveKitServer() as livekit,
        sidecar(livekit) as made,
        Watcher(livekit) as watcher,
        Speaker(livekit, "alice", "Alice", speech),
    ):
        first = await watcher.twin("alice")
        made._stays[ROOM]._following.publishers["alice"].microphone.set_subscribed(False)
        await until(lambda: "the subscription to the microphone has ended" in caplog.text, "it is told")
        await until(lambda: first.sid not in [twin.sid for twin in watcher.twins("alice")], "it goes")


async def test_a_twin_that_cannot_be_withdrawn_bars_nobody(
    speech: Pcm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stuck(self: rtc.LocalParticipant, sid: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("server.sidecar.livekit.twin.CLOSING_TIME", 0.1)
    async with (
        LiveKitServer() as livekit,
        sidecar(livekit) as made,
        Watcher(livekit) as watcher,
        Speaker(livekit, "alice", "Alice", speech),
    ):
        first = await watcher.twin("alice")
        with monkeypatch.context() as fault:
            fault.setattr(rtc.LocalParticipant, "unpublish_track", stuck)
            made._stays[ROOM]._following.publishers["alice"].microphone.set_subscribed(False)
            await until(lambda: "was not withdrawn as it should" in caplog.text, "it is told")
        await until(lambda: [twin.sid for twin in watcher.twins("alice")] not in ([], [first.sid]), "another")


async def test_who_is_removed_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    async with LiveKitServer() as livekit, sidecar(livekit) as made:
        await until(lambda: made.connected, "the sidecar is there")
        await livekit.person("one").remove()
        await until(lambda: "PARTICIPANT_REMOVED" in caplog.text, "why it is not")
        await until(lambda: made.connected, "it is back")


async def test_why_a_room_cannot_be_joined_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.sidecar.livekit.room.MARKING_TIME", 0.2)
    async with LiveKitServer(attributes=False) as livekit:
        async with sidecar(livekit, secret="another") as made:
            await until(lambda: "invalid token" in caplog.text, "LiveKit's reason")
            assert not made.connected
        async with sidecar(livekit) as made:
            await until(lambda: "must allow canUpdateOwnMetadata" in caplog.text, "what the token lacks")
            assert not made.connected


async def test_a_process_that_is_told_to_end_leaves_the_room(speech: Pcm) -> None:
    async with LiveKitServer() as livekit, Watcher(livekit) as watcher:
        command = (
            "sidecar",
            "livekit",
            "--url",
            livekit.url,
            "--room",
            ROOM,
            "--stats-port",
            "0",
            "--name",
            "x",
        )
        secrets = {"LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
        async with (
            program(*command, says="figures at", **secrets) as started,
            Speaker(livekit, "alice", "Alice", speech),
        ):
            await watcher.twin("alice")
            assert (await started.get("/healthz"))[0] == 200
            async with asyncio.timeout(TIMEOUT):
                while not (listed := (await started.get("/stats"))[1]["rooms"][ROOM]["twins"]):
                    pass  # it is marked as a twin a moment before it is listed
            assert list(listed) == ["alice"]
            started.process.terminate()
            assert await started.ended() == 0, started.lines
            assert "Traceback" not in "".join(started.lines)
            await until(lambda: len(livekit.rooms[ROOM].people) == 2, "the sidecar has left")
