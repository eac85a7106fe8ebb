"""The sidecar beside Debian's Janus: real rooms, real speech, crashes included."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from calling import PACKET, given_back, holdings, unlikeness_db, until
from janus_people import Listener, Pcm, Speaker, Watcher, watching
from janus_server import ROOM, JanusServer, installed
from numpy.typing import NDArray

from percepnet import Enhancer
from server.loadtest.hearing import enhancement, is_enhanced, lag
from server.overload import Overload
from server.sidecar import backoff, claims
from server.sidecar.options import SidecarOptions
from server.sidecar.sidecar import Sidecar, running_engine
from server.sidecar.videoroom import Feed, Publisher, VideoRoom

pytestmark = pytest.mark.skipif(not installed(), reason="needs Debian's janus")

LATENCY = 1440


@pytest.fixture
def speech(noisy: NDArray[np.float32]) -> Pcm:
    return (noisy * 32768).astype(np.int16)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine would turn twins dry: overload has tests on a clock of its own."""
    monkeypatch.setattr(Overload, "note", lambda *_: 0)


@asynccontextmanager
async def sidecar(janus: JanusServer, name: str = "one", way: str = "ws") -> AsyncIterator[Sidecar]:
    options = SidecarOptions(
        url=janus.urls[way],
        rooms=(ROOM,),
        name=name,
        authorization=janus.authorization,
        pin=janus.pin,
        publishers=16,
    )
    async with running_engine(options) as engine:
        made = Sidecar(options, engine)
        running = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def twin_of(watcher: Watcher, feed: Feed) -> Publisher:
    await until(lambda: len(watcher.twins(feed)) == 1, f"one twin of {feed}")
    return watcher.twins(feed)[0]


async def heard_from(room: VideoRoom, publisher: Publisher, packets: int) -> Pcm:
    async with Listener(room, publisher) as listener:
        await until(lambda: len(listener.frames) >= packets, f"{packets} packets of {publisher.display}")
        heard = listener.heard()
    assert PACKET * len(listener.frames) > 0.9 * len(heard)  # a busy machine may be late with some
    return heard


def assert_enhanced(heard: Pcm, noisy: NDArray[np.float32]) -> None:
    """Nearer to what the library makes of the recording than to the recording, and quieter in its pauses."""
    sent = (noisy * 32768).astype(np.int16)
    late = lag(np.resize(sent, len(heard)), heard)
    assert late is not None
    sent = np.roll(np.resize(sent, 2 * len(noisy)), late)[: len(heard)]
    enhanced = Enhancer().process(np.resize(noisy, 2 * len(noisy) // PACKET * PACKET)[np.newaxis])[0]
    enhanced = np.roll(enhanced, late - LATENCY)[: len(heard)]
    part = slice(48_000, min(len(heard), 13 * 48_000))
    assert unlikeness_db(heard[part], enhanced[part]) < unlikeness_db(heard[part], sent[part]) / 2
    change = enhancement(sent[part], heard[part], np.ones(len(sent[part]), bool))
    assert change is not None
    assert is_enhanced(*change)


@pytest.mark.parametrize("way", ["ws", "http"])
async def test_the_twin_is_the_enhanced_voice_and_leaves_with_its_publisher(
    tmp_path: Path, speech: Pcm, noisy: NDArray[np.float32], way: str
) -> None:
    async with (
        JanusServer(tmp_path, secret="open sesame", pin="4711") as janus,
        sidecar(janus, way=way),
        watching(janus, way) as (room, watcher),
    ):
        async with Speaker(room, "Alice", speech) as alice:
            twin = await twin_of(watcher, alice.id)
            assert twin.display == "Alice (enhanced)"
            assert_enhanced(await heard_from(room, twin, 300), noisy)
        await until(lambda: not watcher.publishers, "the twin leaves")
    assert watcher.most_at_once == 1


async def test_a_killed_janus_gets_its_twins_back_and_nothing_is_left_of_the_old_ones(
    tmp_path: Path, speech: Pcm, noisy: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "LONGEST", 1.0)
    async with JanusServer(tmp_path) as janus, sidecar(janus) as made:
        before: dict[str, int] = {}
        for _ in range(3):
            async with watching(janus) as (room, watcher), Speaker(room, "Alice", speech) as alice:
                twin = await twin_of(watcher, alice.id)
                await heard_from(room, twin, 5)
                await janus.kill()
                await until(lambda: not made.connected, "the sidecar knows")
            if before:
                await given_back(before)
            before = before or holdings()
            await janus.start()
        async with watching(janus) as (room, watcher), Speaker(room, "Alice", speech) as alice:
            assert_enhanced(await heard_from(room, await twin_of(watcher, alice.id), 300), noisy)


async def test_two_sidecars_make_one_twin_of_each_and_the_other_takes_over(
    tmp_path: Path, speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with JanusServer(tmp_path) as janus, watching(janus) as (room, watcher), AsyncExitStack() as stack:
        ends = AsyncExitStack()
        one = await ends.enter_async_context(sidecar(janus, "one"))
        two = await stack.enter_async_context(sidecar(janus, "two"))
        await until(lambda: one.connected and two.connected, "both are there")
        people = [await stack.enter_async_context(Speaker(room, f"{n}", speech)) for n in range(4)]
        for speaker in people:
            await twin_of(watcher, speaker.id)
        shares = [len(made.report()["rooms"][str(ROOM)]["twins"]) for made in (one, two)]  # type: ignore[index]
        assert sum(shares) == 4
        await ends.aclose()
        for speaker in people:
            await twin_of(watcher, speaker.id)
    assert watcher.most_at_once == 1


async def test_of_two_twins_the_one_with_the_lower_id_stays(
    tmp_path: Path, speech: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the race that :mod:`server.sidecar.claims` tells of: neither sidecar knows that the other is there."""
    monkeypatch.setattr(claims, "place", lambda *_: 0)
    monkeypatch.setattr("server.sidecar.room.place", lambda *_: 0)
    async with (
        JanusServer(tmp_path) as janus,
        sidecar(janus, "one") as one,
        sidecar(janus, "two") as two,
        watching(janus) as (room, watcher),
    ):
        await until(lambda: one.connected and two.connected, "both are there")
        async with Speaker(room, "Alice", speech) as alice:
            await until(lambda: watcher.most_at_once == 2, "two twins")
            both = set(watcher.all_twins)
            twin = await twin_of(watcher, alice.id)
            assert twin.id == min(both)
            await heard_from(room, twin, 5)


async def test_ten_publishers_at_once(tmp_path: Path, speech: Pcm) -> None:
    async with JanusServer(tmp_path) as janus, sidecar(janus), watching(janus) as (room, watcher):
        async with AsyncExitStack() as stack:
            people = await asyncio.gather(
                *(stack.enter_async_context(Speaker(room, f"{n}", speech)) for n in range(10))
            )
            twins = [await twin_of(watcher, speaker.id) for speaker in people]
            assert len({twin.id for twin in twins}) == 10
            await asyncio.gather(*(heard_from(room, twin, 25) for twin in twins))
        await until(lambda: not watcher.publishers, "all twins leave")
    assert watcher.most_at_once == 1
