"""The jitter buffer: order, holes, wraps, restarts."""

import random

import pytest

from server.media.jitterbuffer import CAPACITY, HOLE_WAIT, MAX_MISORDER, AudioJitterBuffer

PERIOD = 0.020  # s between packets


def run(arrivals: list[tuple[float, int]]) -> tuple[list[tuple[float, int]], AudioJitterBuffer[int]]:
    """Feed (time, sequence number) in the order of time; returns what left and when, timers included."""
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer()
    left: list[tuple[float, int]] = []
    for now, sequence in [*sorted(arrivals), (float("inf"), -1)]:
        while (deadline := buffer.deadline) is not None and deadline <= now:
            left += [(deadline, item) for item in buffer.expire(deadline)]
        if sequence >= 0:
            left += [(now, item) for item in buffer.add(sequence & 0xFFFF, sequence, now)]
    return left, buffer


@pytest.mark.parametrize("first", [0, 1000, 0xFFFF - 50])
def test_packets_in_order_leave_the_moment_they_come(first: int) -> None:
    arrivals = [(n * PERIOD, first + n) for n in range(200)]
    left, buffer = run(arrivals)
    assert left == arrivals
    assert (buffer.counts.lost, buffer.counts.late, buffer.counts.duplicate) == (0, 0, 0)


@pytest.mark.parametrize("first", [5, 0xFFFF - 4])
def test_neighbours_that_change_places_leave_in_order(first: int) -> None:
    arrivals = [(n * PERIOD, first + n) for n in range(20)]
    arrivals[7] = (arrivals[8][0] + 0.005, first + 7)
    left, buffer = run(arrivals)
    assert [item for _, item in left] == [first + n for n in range(20)]
    assert left[8][0] == arrivals[7][0]  # the one behind waits for the missing one and no longer
    assert buffer.counts.lost == 0


def test_a_lost_packet_holds_the_next_for_the_wait_and_no_other() -> None:
    arrivals = [(n * PERIOD, n) for n in range(20) if n != 7]
    left, buffer = run(arrivals)
    delays = {item: at - item * PERIOD for at, item in left}
    assert delays[8] == pytest.approx(HOLE_WAIT)
    assert all(delay == pytest.approx(0) for item, delay in delays.items() if item != 8)
    assert buffer.counts.lost == 1


def test_a_packet_after_its_hole_was_given_up_is_late_and_dropped() -> None:
    left, buffer = run([(0, 0), (0.04, 2), (0.06, 3), (0.08, 1), (0.10, 4)])
    assert [item for _, item in left] == [0, 2, 3, 4]
    assert (buffer.counts.lost, buffer.counts.late, buffer.counts.duplicate) == (1, 1, 0)


def test_duplicates_leave_once() -> None:
    left, buffer = run([(0, 0), (0.001, 0), (0.02, 1), (0.06, 3), (0.061, 3), (0.062, 2), (0.063, 3)])
    assert [item for _, item in left] == [0, 1, 2, 3]
    assert (buffer.counts.duplicate, buffer.counts.lost) == (3, 0)


def test_a_burst_behind_a_hole_never_waits_in_more_than_the_capacity() -> None:
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer()
    buffer.add(0, 0, 0.0)
    left = [item for n in range(2, 2 + CAPACITY + 1) for item in buffer.add(n, n, 0.001)]
    assert left == list(range(2, 2 + CAPACITY + 1))
    assert buffer.deadline is None


def test_a_new_sequence_takes_two_packets_in_a_row() -> None:
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer()
    assert buffer.add(100, 100, 0.0) == [100]
    assert buffer.add(40000, 40000, 0.02) == []  # stray
    assert buffer.add(101, 101, 0.04) == [101]
    assert buffer.add(30000, 30000, 0.06) == []
    assert buffer.add(30001, 30001, 0.08) == [30001]
    assert buffer.add(30002, 30002, 0.10) == [30002]


@pytest.mark.parametrize("seed", range(20))
def test_any_network_gives_each_packet_once_in_order_and_in_bounded_time(seed: int) -> None:
    """Loss, duplication, jitter up to 60 ms and a wrap; then the counts add up."""
    chance = random.Random(seed)
    first = 0xFFFF - 250
    arrivals = []
    for n in range(500):
        if n > 0 and chance.random() < 0.1:
            continue
        for _ in range(2 if chance.random() < 0.05 else 1):
            arrivals.append((n * PERIOD + (chance.random() * 0.06 if n else 0), first + n))
    left, buffer = run(arrivals)
    items = [item for _, item in left]
    assert items == sorted(set(items))
    came: dict[int, float] = {}
    for at, item in sorted(arrivals):
        came.setdefault(item, at)
    assert all(at - came[item] <= HOLE_WAIT + 1e-9 for at, item in left)
    counts = buffer.counts
    assert counts.received == len(arrivals) == len(items) + counts.late + counts.duplicate
    assert len(items) + counts.lost == items[-1] - first + 1
    assert counts.late <= counts.lost <= MAX_MISORDER * 5
