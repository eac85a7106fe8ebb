"""Who enhances whom, as each sidecar finds by itself."""

import asyncio
from itertools import permutations

import pytest

from server import backoff, forward
from server.sidecar import process
from server.sidecar import twin as janus_twin
from server.sidecar.claims import (
    GRACE,
    beaten,
    enhanced_feed,
    patience,
    sidecar_display,
    sidecar_name,
    twin_description,
    twin_display,
)
from server.sidecar.livekit import room as livekit_room
from server.sidecar.livekit import twin as livekit_twin
from server.waiting import first

NAMES = ["one", "two", "three", "four"]
FEEDS = range(1_000, 2_000)


def first_of(feed: int, names: list[str]) -> str:
    """The sidecar among ``names`` whose turn it is, as all of them find."""
    waits = {name: patience(name, feed, names, newcomer=False) for name in names}
    assert sorted(waits.values()) == [GRACE * place for place in range(len(names))]
    return min(waits, key=lambda name: waits[name])


def test_all_agree_on_one_order_and_each_gets_its_share() -> None:
    shares = [first_of(feed, NAMES) for feed in FEEDS]
    assert all(200 < shares.count(name) < 300 for name in NAMES)


def test_who_leaves_takes_only_its_own_publishers_along() -> None:
    before = {feed: first_of(feed, NAMES) for feed in FEEDS}
    after = {feed: first_of(feed, NAMES[1:]) for feed in FEEDS}
    moved = {before[feed] for feed in FEEDS if before[feed] != after[feed]}
    assert moved == {NAMES[0]}


def test_who_comes_later_waits_longer_than_who_was_there_and_alone_not_at_all() -> None:
    for feed in range(20):
        waits = [patience(name, feed, NAMES, newcomer=n > 1) for n, name in enumerate(NAMES)]
        assert len(set(waits)) == len(NAMES)  # whoever of them is new: never two at a time
        assert min(waits[2:]) > 0
        for newcomer in (False, True):
            assert patience("one", feed, ["one"], newcomer) == 0
            assert patience("one", feed, [], newcomer) == 0  # not listed yet


@pytest.mark.parametrize("twins", [(5, 77, 123), ("a", "b", "cc"), (9, 10, 11)])
def test_of_any_twins_exactly_the_lowest_stays(twins: tuple[int | str, ...]) -> None:
    for order in permutations(twins):
        assert [twin for twin in order if not beaten(twin, order)] == [twins[0]]


def test_twins_tell_whom_they_are_of_and_people_are_none() -> None:
    assert enhanced_feed(twin_description(4711)) == "4711"
    assert enhanced_feed(twin_description("of all")) == "of all"
    assert all(
        enhanced_feed(text) is None for text in ("", "microphone", "see percepnet: enhanced audio of 5")
    )
    assert sidecar_name(sidecar_display("one")) == "one"
    assert sidecar_name("Alice") is None
    assert twin_display("Alice") == "Alice (enhanced)"
    assert twin_display("") == "(enhanced)"


def test_pauses_grow_to_a_limit_and_differ() -> None:
    growing = backoff.Backoff()
    pauses = [growing.next() for _ in range(8)]
    for pause, due in zip(pauses, [0.5, 1, 2, 4, 8, 16, 30, 30], strict=True):
        assert due / 2 <= pause <= due
    assert len(set(pauses)) == 8


def test_an_attempt_that_ends_by_its_own_time_limit_was_not_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (
        janus_twin.CONNECTING_TIME,
        livekit_room.CONNECTING_TIME,
        livekit_twin.SUBSCRIBING_TIME,
        forward.CONNECT_TIME + forward.ANSWER_TIME,
    )
    clock = [0.0]
    monkeypatch.setattr(backoff.time, "monotonic", lambda: clock[0])
    pauses = backoff.Backoff()
    clock[0] = max(limits)
    assert max(pauses.next() for _ in range(8)) > 20 * backoff.SHORTEST


async def test_a_sidecar_without_an_engine_leaves_its_rooms_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "BEAT", 0.001)
    left = asyncio.Event()

    class Engine:
        alive = True

    async def run() -> None:
        try:
            engine.alive = False
            await asyncio.Event().wait()
        finally:
            left.set()

    engine = Engine()
    with pytest.raises(RuntimeError, match="the engine has died"):
        await first(run(), process._alive(engine))  # type: ignore[arg-type]
    assert left.is_set()
