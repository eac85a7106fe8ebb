"""The jitter buffer: order, holes, how long they are waited at, wraps, restarts, and that no delay is left behind."""

import random
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

import pytest
from aiortc.rtp import RtcpReceiverInfo, RtpPacket

from server.media.jitter import LONGEST_WAIT, MEMORY, SHORTEST_WAIT, HoleWait, InterarrivalJitter
from server.media.jitterbuffer import CAPACITY, MAX_MISORDER, AudioJitterBuffer
from server.media.receiver import Statistics

PERIOD = 0.020  # s between packets

Arrivals = list[tuple[float, int]]  # when, and which; in the order of sending


def run(arrivals: Arrivals) -> tuple[Arrivals, AudioJitterBuffer[int]]:
    """Feed packets in the order of time; returns what left and when, timers included."""
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer(HoleWait())
    left: Arrivals = []
    for now, sequence in [*sorted(arrivals), (float("inf"), -1)]:
        while (deadline := buffer.deadline) is not None and deadline <= now:
            left += [(deadline, item) for item in buffer.expire(deadline)]
        if sequence >= 0:
            left += [(now, item) for item in buffer.add(sequence & 0xFFFF, sequence, now)]
    return left, buffer


def sent(count: int, period: float = PERIOD) -> Arrivals:
    return [(n * period, n) for n in range(count)]


def waited(left: Arrivals, arrivals: Arrivals) -> dict[int, float]:
    """How long the buffer kept each packet that left, s, from its first coming."""
    came: dict[int, float] = {}
    for at, item in sorted(arrivals):
        came.setdefault(item, at)
    return {item: at - came[item] for at, item in left}


@pytest.mark.parametrize("first", [0, 1000, 0xFFFF - 50])
def test_packets_in_order_leave_the_moment_they_come(first: int) -> None:
    arrivals = [(at, first + n) for at, n in sent(200)]
    left, buffer = run(arrivals)
    assert left == arrivals
    assert (buffer.counts.lost, buffer.counts.late, buffer.counts.duplicate) == (0, 0, 0)


@pytest.mark.parametrize("first", [5, 0xFFFF - 4])
def test_neighbours_that_change_places_leave_in_order(first: int) -> None:
    arrivals = [(at, first + n) for at, n in sent(20)]
    arrivals[7] = (arrivals[8][0] + 0.005, first + 7)
    left, buffer = run(arrivals)
    assert [item for _, item in left] == [first + n for n in range(20)]
    assert left[8][0] == arrivals[7][0]  # the one behind waits for the missing one and no longer
    assert (buffer.counts.lost, buffer.counts.reordered) == (0, 1)


def test_on_a_network_that_keeps_the_order_a_loss_holds_one_packet_for_the_shortest_wait() -> None:
    arrivals = [packet for packet in sent(20) if packet[1] != 7]
    left, buffer = run(arrivals)
    waits = waited(left, arrivals)
    assert waits.pop(8) == pytest.approx(SHORTEST_WAIT)
    assert set(waits.values()) == {0}
    assert buffer.counts.lost == 1


def test_a_packet_after_its_hole_was_given_up_is_late_and_dropped() -> None:
    left, buffer = run([(0, 0), (0.04, 2), (0.06, 3), (0.08, 1), (0.10, 4)])
    assert [item for _, item in left] == [0, 2, 3, 4]
    assert (buffer.counts.lost, buffer.counts.late, buffer.counts.duplicate) == (1, 1, 0)


def test_duplicates_leave_once() -> None:
    left, buffer = run([(0, 0), (0.001, 0), (0.02, 1), (0.06, 3), (0.061, 3), (0.062, 2), (0.063, 3)])
    assert [item for _, item in left] == [0, 1, 2, 3]
    assert (buffer.counts.duplicate, buffer.counts.lost) == (3, 0)


def test_the_wait_follows_how_late_packets_come_and_falls_again_within_5_s() -> None:
    chance = random.Random(1)
    bad = [(at + (0.02 + chance.random() * 0.07) * (n % 5 == 0), n) for at, n in sent(250)]
    calm = [(at, n) for at, n in sent(600)[250:] if n % 50 != 49]
    left, _ = run(bad + calm)
    waits = waited(left, bad + calm)
    # of 30 overtaken, once the network is known
    assert sum(item not in waits for item in range(100, 250)) <= 5
    assert max(waits.values()) > 0.05
    after = [wait for item, wait in waits.items() if item * PERIOD > 250 * PERIOD + 5]
    assert max(after) == pytest.approx(SHORTEST_WAIT)


def test_what_comes_far_too_late_does_not_make_others_wait() -> None:
    wait = HoleWait()
    wait.note(0.0, 3.0)
    assert wait.wait(0.0) == SHORTEST_WAIT
    for n in range(1000):
        wait.note(n * 0.001, LONGEST_WAIT)
    assert wait.wait(1.0) == LONGEST_WAIT
    assert wait.wait(1.0 + MEMORY) == SHORTEST_WAIT


def test_a_burst_behind_a_hole_never_waits_in_more_than_the_capacity() -> None:
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer(HoleWait())
    buffer.add(0, 0, 0.0)
    left = [item for n in range(2, 2 + CAPACITY + 1) for item in buffer.add(n, n, 0.001)]
    assert left == list(range(2, 2 + CAPACITY + 1))
    assert buffer.deadline is None


def test_a_new_sequence_takes_two_packets_in_a_row_and_loses_none() -> None:
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer(HoleWait())
    assert buffer.add(100, 100, 0.0) == [100]
    assert buffer.add(40000, 40000, 0.02) == []  # stray
    assert buffer.add(101, 101, 0.04) == [101]
    assert buffer.add(103, 103, 0.04) == []
    assert buffer.add(30000, 30000, 0.06) == []
    assert buffer.add(30001, 30001, 0.08) == [103, 30000, 30001]
    assert buffer.add(30002, 30002, 0.10) == [30002]
    assert (buffer.counts.stray, buffer.counts.lost, buffer.counts.received) == (1, 1, 7)


def test_what_may_have_begun_a_new_sequence_is_astray_when_the_source_ends() -> None:
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer(HoleWait())
    assert buffer.add(100, 100, 0.0) == [100]
    assert buffer.add(40000, 40000, 0.02) == []
    assert buffer.flush() == []
    assert (buffer.counts.stray, buffer.counts.lost, buffer.counts.received) == (1, 0, 2)


def test_numbers_that_were_missing_once_mean_nothing_after_a_wrap() -> None:
    arrivals = [packet for packet in sent(0x10000 + 2000) if packet[1] not in (500, 501, 65_530)]
    left, buffer = run(arrivals)
    assert [item for _, item in left] == [item for _, item in arrivals]
    assert (buffer.counts.lost, buffer.counts.reordered, buffer.counts.late) == (3, 0, 0)


def test_numbers_that_are_missing_in_a_sequence_mean_nothing_in_the_next() -> None:
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer(HoleWait())
    buffer.add(0, 0, 0.0)
    buffer.add(1000, 1000, 1.0)  # 900 to 999 may still come
    assert buffer.expire(2.0) == [1000]
    assert buffer.add(899, 899, 3.0) == []  # so far behind that it begins anew
    assert buffer.add(900, 900, 3.02) == [899, 900]
    assert (buffer.counts.reordered, buffer.counts.late) == (0, 0)


def network(seed: int) -> Iterator[tuple[float, int]]:
    """Loss, duplication, a stall and jitter of up to 200 ms from a wrap on; packets of 2.5 to 120 ms."""
    chance = random.Random(seed)
    period, jitter = chance.choice([0.0025, 0.01, 0.02, 0.06, 0.12]), chance.choice([0, 0.03, 0.06, 0.2])
    loss, stall = chance.choice([0.01, 0.1, 0.3]), chance.randrange(100, 400)
    for n in range(500):
        if n > 0 and chance.random() < loss:
            continue
        for _ in range(2 if chance.random() < 0.05 else 1):
            sent_at = max(n, stall + 40 if n >= stall else 0) * period
            yield sent_at + (chance.random() * jitter if n else 0), 0xFFFF - 250 + n


@pytest.mark.parametrize("seed", range(40))
def test_any_network_gives_each_packet_once_in_order_and_in_bounded_time(seed: int) -> None:
    arrivals = list(network(seed))
    left, buffer = run(arrivals)
    items = [item for _, item in left]
    released = set(items)
    assert all(a < b for a, b in pairwise(items))
    assert max(waited(left, arrivals).values()) <= LONGEST_WAIT + 1e-9
    counts = buffer.counts
    assert counts.received == len(arrivals) == len(items) + counts.late + counts.duplicate + counts.stray
    assert len(items) + counts.lost == items[-1] - 0xFFFF + 250 + 1
    assert counts.late <= counts.reordered
    times = [at for at, _ in left]
    for at, item in arrivals:
        gone = bisect_left(times, at)  # packets that had left before this one came
        assert item in released or (gone and items[gone - 1] > item)


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.10, 0.20])
def test_loss_alone_costs_no_packet_more(loss: float) -> None:
    chance = random.Random(2)
    arrivals = [packet for packet in sent(5000) if packet[1] == 0 or chance.random() >= loss]
    left, buffer = run(arrivals)
    assert [item for _, item in left] == [item for _, item in arrivals]
    assert max(waited(left, arrivals).values()) <= SHORTEST_WAIT + 1e-9
    assert buffer.counts.lost == left[-1][1] + 1 - len(arrivals)


@pytest.mark.parametrize("drift", [-200e-6, 200e-6])
def test_clocks_that_differ_for_an_hour_leave_no_delay_and_lose_nothing(drift: float) -> None:
    chance = random.Random(3)
    hour = sent(180_000, PERIOD * (1 + drift))
    arrivals = [packet for packet in hour if packet[1] == 0 or chance.random() >= 0.01]
    left, buffer = run(arrivals)
    assert len(left) == len(arrivals)
    assert all(wait <= SHORTEST_WAIT + 1e-9 for wait in waited(left, arrivals).values())
    assert waited(left, arrivals)[left[-1][1]] == 0
    assert buffer.counts.late == buffer.counts.duplicate == 0


def test_a_blackout_and_a_stall_of_3_s_leave_no_delay_behind() -> None:
    blackout = [packet for packet in sent(1000) if not 200 <= packet[1] < 350]
    left, buffer = run(blackout)
    assert buffer.counts.lost == 150
    assert {wait for item, wait in waited(left, blackout).items() if item > 351} == {0}
    stall = [(max(at, 7.0) if n >= 200 else at, n) for at, n in sent(1000)]
    left, buffer = run(stall)
    assert left == stall
    assert buffer.counts.lost == 0


def test_late_numbers_are_remembered_no_further_than_packets_can_be_misordered() -> None:
    buffer: AudioJitterBuffer[int] = AudioJitterBuffer(HoleWait())
    buffer.add(0, 0, 0.0)
    buffer.add(1000, 1000, 1.0)
    buffer.expire(2.0)
    for n in range(901, 1000):
        assert buffer.add(n, n, 3.0) == []
    assert (buffer.counts.lost, buffer.counts.late) == (999, MAX_MISORDER - 1)


def test_timestamps_that_jump_leave_a_jitter_that_a_report_has_room_for() -> None:
    """Or aiortc's reports fail, and the call's end waits for them for ever."""
    statistics = Statistics(48_000)
    for number in range(2000):
        statistics.add(RtpPacket(96, sequence_number=number, timestamp=number % 2 * 0xFFFFFFFF))
    assert statistics.jitter < 48_000
    for number in range(2000, 4000):
        statistics.add(RtpPacket(96, sequence_number=number, timestamp=number % 2 << 31))
    RtcpReceiverInfo(1, 0, 0, statistics.max_seq, statistics.jitter, 0, 0).__bytes__()


def test_reports_have_the_extended_number_over_its_wraps() -> None:
    """RFC 3550, 6.4.1: a peer takes differences of it."""
    statistics = Statistics(48_000)
    for number in range(65_000, 3 * 65_536, 40):
        for n in (number, number - 20):  # the second comes late
            statistics.add(RtpPacket(96, sequence_number=n & 0xFFFF, timestamp=n * 960 & 0xFFFFFFFF))
        assert statistics.max_seq == number
        assert statistics.packets_expected == number - 65_000 + 1


def test_the_extended_number_wraps_where_a_report_has_no_room_for_more() -> None:
    statistics = Statistics(48_000)
    for packet in range(140_000):
        number = packet * 32_767  # the longest step that is one ahead
        statistics.add(RtpPacket(96, sequence_number=number & 0xFFFF, timestamp=number & 0xFFFFFFFF))
    assert 140_000 * 32_767 > 1 << 32
    assert statistics.max_seq == number % (1 << 32)
    RtcpReceiverInfo(1, 0, 0, statistics.max_seq, statistics.jitter, 0, 0).__bytes__()


def test_the_jitter_is_that_of_rfc_3550() -> None:
    jitter = InterarrivalJitter()
    expected, before = 0.0, 0.0
    for n, deviation in enumerate([0.0, 0.004, 0.001, 0.009, 0.0, 0.002]):
        jitter.note(n * PERIOD + deviation, (1 << 32) - 2000 + n * 960 & 0xFFFFFFFF, 48_000)
        if n:
            expected += (abs(deviation - before) - expected) / 16
        before = deviation
    assert jitter.value == pytest.approx(expected)
    jitter.restart()
    jitter.note(100.0, 5, 48_000)
    assert jitter.value == pytest.approx(expected)
