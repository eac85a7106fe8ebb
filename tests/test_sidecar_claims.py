"""Who enhances whom, as each sidecar finds by itself."""

from itertools import permutations

import pytest

from server.sidecar.backoff import Backoff
from server.sidecar.claims import (
    beaten,
    enhanced_feed,
    place,
    sidecar_display,
    twin_description,
    twin_display,
)

NAMES = ["one", "two", "three", "four"]
FEEDS = range(1_000, 2_000)


def first_of(feed: int, names: list[str]) -> str:
    """The sidecar among ``names`` whose turn it is, as all of them find."""
    displays = ["Alice", "", *map(sidecar_display, names)]
    places = {name: place(name, feed, displays) for name in names}
    assert sorted(places.values()) == list(range(len(names)))
    return min(places, key=lambda name: places[name])


def test_all_agree_on_one_order_and_each_gets_its_share() -> None:
    shares = [first_of(feed, NAMES) for feed in FEEDS]
    assert all(200 < shares.count(name) < 300 for name in NAMES)


def test_who_leaves_takes_only_its_own_publishers_along() -> None:
    before = {feed: first_of(feed, NAMES) for feed in FEEDS}
    after = {feed: first_of(feed, NAMES[1:]) for feed in FEEDS}
    moved = {before[feed] for feed in FEEDS if before[feed] != after[feed]}
    assert moved == {NAMES[0]}


def test_a_sidecar_that_janus_does_not_list_yet_has_a_place_all_the_same() -> None:
    assert place("new", 1, []) == 0
    assert place("new", 1, [sidecar_display("old")]) + place("old", 1, [sidecar_display("new")]) == 1


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
    assert twin_display("Alice") == "Alice (enhanced)"
    assert twin_display("") == "(enhanced)"


def test_pauses_grow_to_a_limit_and_differ() -> None:
    backoff = Backoff(shortest=1, longest=8)
    pauses = [backoff.next() for _ in range(8)]
    for pause, due in zip(pauses, [1, 2, 4, 8, 8, 8, 8, 8], strict=True):
        assert due / 2 <= pause <= due
    assert len(set(pauses)) == 8
