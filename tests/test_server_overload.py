"""Too many calls for the processor, on a clock of its own: who is shed, what is heard, who comes back when."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from simulation import GAIN, PER_BATCH, PER_CALL, RATED, Clock, Simulation, Slow, dry

from percepnet.framing import LATENCY, Float
from server.controls import Controls
from server.dry import DryLine
from server.engine import MOST_DEATHS
from server.fallback import WARM_UP_PACKETS, Fallback
from server.frames import PACKET
from server.overload import BOUND, LATE, LONGEST_QUIET, QUIET, RETURN_INTERVAL
from server.rating import MARGIN, WHOLE_WAY, measured, media_time, rated_calls


def test_at_the_rated_load_packets_are_in_time_and_nobody_is_shed() -> None:
    simulation = Simulation(RATED)
    simulation.run(5)
    ages = np.concatenate(simulation.ages)
    assert np.percentile(ages, 99) < BOUND + 1e-4  # times are whole samples
    assert simulation.enhancements() == ["on"] * RATED
    assert not simulation.engine.overloaded


def test_at_twice_the_rated_load_nothing_is_lost_and_the_newest_calls_are_shed() -> None:
    simulation = Simulation(2 * RATED)
    simulation.run(5)
    assert simulation.dropped() == 0
    counts = [shed for _, shed in simulation.shed]
    assert max(np.diff([0, *counts])) <= 4  # one after another, or a few at a time when it is urgent
    assert RATED / 2 < counts[-1] < 1.5 * RATED
    assert simulation.engine.overloaded
    enhancements = simulation.enhancements()
    assert enhancements == ["on"] * (2 * RATED - counts[-1]) + ["shed"] * counts[-1]
    late = [age for ages in simulation.ages for age in ages[-50:]]  # the last second
    assert np.percentile(late, 99) < LATE + BOUND
    assert simulation.ports[-1].figures.shed_packets > 150
    assert simulation.ports[0].figures.shed_packets == 0
    for port in simulation.ports:
        simulation.engine.close(port)
    assert not simulation.engine.overloaded  # with nobody there, nobody is late


def test_slight_overload_sheds_one_call_after_another() -> None:
    simulation = Simulation(RATED * 5 // 3)
    simulation.run(8)
    counts = [shed for _, shed in simulation.shed]
    assert 2 < counts[-1] < RATED / 2
    assert max(np.diff([0, *counts])) == 1
    assert simulation.dropped() == 0


def test_a_stall_sheds_nobody() -> None:
    simulation = Simulation(RATED // 2)
    for _ in range(5):
        simulation.run(1)
        simulation.clock.now += 0.1
        simulation.run(1)
    assert {shed for _, shed in simulation.shed} == {0}
    assert simulation.dropped() == 0


def test_calls_are_shed_too_where_every_batch_of_all_is_a_standstill() -> None:
    """Whose packets go past have cost the time all the same: shed are as many as it takes."""
    simulation = Simulation(RATED)
    engine = simulation.engine
    engine._deaths = MOST_DEATHS  # there is no thread to begin again

    def stand_still() -> None:
        with engine._wake:
            engine._stand_still()

    simulation.enhancer.stalled = stand_still
    simulation.enhancer.factor = 13
    simulation.run(5)
    assert 0 < engine.shed_calls < RATED
    passed = sum(port.figures.passed for port in simulation.ports)
    simulation.run(5)
    assert sum(port.figures.passed for port in simulation.ports) == passed


def test_callers_faster_than_time_are_shed_as_others_are() -> None:
    simulation = Simulation(RATED)
    simulation.pace = 0.02 / 1.4
    simulation.enhancer.factor = 2
    simulation.run(10)
    assert simulation.engine.shed_calls > RATED / 4
    before = simulation.dropped()
    simulation.run(5)
    assert simulation.dropped() == before


def test_once_there_is_time_again_all_come_back_in_the_stated_time() -> None:
    simulation = Simulation(RATED)
    simulation.enhancer.factor = 2
    simulation.run(4)
    shed = simulation.engine.shed_calls
    assert shed > 5
    simulation.enhancer.factor = 0.5
    simulation.engine._overload._quiet = LONGEST_QUIET  # as after many returns that failed
    simulation.ports[0].close()  # a call that ends is what makes room
    relieved = simulation.clock.now

    def all_are_back() -> bool:
        shed = [port in simulation.engine._shed for port in simulation.ports]
        assert shed == sorted(shed)  # those who were there first are back first
        return not any(shed)

    simulation.run(20, until=all_are_back)
    window = 0.1
    assert simulation.clock.now - relieved < QUIET + (RETURN_INTERVAL + window) * shed + 4 * window
    steps = np.diff([count for time, count in simulation.shed if time > relieved])
    assert set(steps) == {0, -1}
    simulation.run(QUIET + 0.2)
    assert simulation.enhancements() == ["on"] * RATED
    assert not simulation.engine.overloaded


def test_a_call_at_the_border_does_not_flap() -> None:
    """Two of three calls have room, and packets so seldom late that the third is tried again and again."""
    simulation = Simulation(3)
    simulation._next = [0.0, 0.010, 0.005]
    simulation.enhancer.per_batch, simulation.enhancer.per_call = 0.0, 0.009
    simulation.run(40)
    changes = [n for n in np.diff([count for time, count in simulation.shed if time > 20]) if n]
    assert simulation.engine.shed_calls
    assert 0 < len(changes) <= 8
    assert simulation.engine._overload._quiet > QUIET
    assert simulation.dropped() == 0


def test_shed_audio_is_the_dry_input_at_the_same_delay_and_changes_without_a_step() -> None:
    """Around each change the share of dry audio moves by 1 in a packet, evenly; elsewhere it does not move."""
    clock = Clock()
    fallback = Fallback(Slow(2, clock), 2)  # type: ignore[arg-type]
    line = DryLine(LATENCY)
    said = [np.full(PACKET, 0.5, np.float32)] * 40
    out = []
    for n, packet in enumerate(said):
        if n == 10:
            fallback.shed(1)
        if n == 25:
            fallback.restore(1)
        out.append(fallback.process([0, 1], np.stack([packet, packet]), np.stack([line.push(packet)] * 2)))
        assert fallback.is_shed(1) == (10 <= n < 25 + WARM_UP_PACKETS)
        assert not fallback.is_shed(0)
    other, heard = np.concatenate(out, axis=1)
    wanted = dry(said, 40)
    assert np.array_equal(other, wanted * GAIN)
    first, last = 11 * PACKET, (25 + WARM_UP_PACKETS) * PACKET
    assert np.abs(heard[first:last] - wanted[first:last]).max() < 1e-6
    start = 5 * PACKET
    assert np.abs(np.diff(heard[start:])).max() < 1.01 * 0.5 * (1 - GAIN) / (PACKET - 1)
    assert np.abs(heard[last + PACKET :] - wanted[last + PACKET :] * GAIN).max() < 1e-6


def test_what_callers_turn_while_they_are_shed_holds() -> None:
    simulation = Simulation(2 * RATED)
    simulation.run(4)
    off, on = simulation.ports[-1], simulation.ports[-2]
    assert (off.enhancement, on.enhancement) == ("shed", "shed")
    off.set({"enabled": False})
    on.set({"enabled": False})
    on.set({"enabled": True})
    assert (off.enhancement, on.enhancement) == ("off", "shed")
    heard = len(simulation.heard[-1])
    for port in simulation.ports[: RATED + RATED // 2]:
        port.close()
    simulation.run(20)
    assert simulation.engine.shed_calls == 0
    assert (off.enhancement, on.enhancement) == ("off", "on")
    packets = len(simulation.heard[-1])
    wanted = dry(simulation.said[-1], packets)[heard * PACKET :]
    assert np.abs(np.concatenate(simulation.heard[-1])[heard * PACKET :] - wanted).max() < 1e-6


@pytest.mark.parametrize("why", ["off", "muted", "paused", "failing"])
def test_calls_that_cost_nothing_are_not_shed_in_place_of_those_that_cost(why: str) -> None:
    simulation = Simulation(RATED)
    free = [simulation.call(Controls(enabled=why != "off")) for _ in range(5)]
    slots = [port.slot for port in free]
    simulation.enhancer.asleep[slots] = why == "muted"
    simulation.enhancer.ill = set(slots) if why == "failing" else set()
    simulation.run(0.5)
    if why == "paused":
        simulation._next[-5:] = [np.inf] * 5
    simulation.enhancer.factor = 2
    simulation.run(3)
    assert simulation.engine.shed_calls
    assert not set(free) & set(simulation.engine._shed)
    assert all(port.figures.shed_packets == 0 for port in free)


def test_a_call_whose_packet_goes_past_while_it_is_shed_stays_shed() -> None:
    simulation = Simulation(RATED * 5 // 3)
    simulation.run(5, until=lambda: simulation.engine.shed_calls > 0)
    port = simulation.engine._shed[-1]
    port.submit(round(simulation.clock.now * 48_000), np.zeros(PACKET, np.float32))
    with simulation.engine._wake:
        simulation.engine._pass([port])
    for _ in range(10):
        simulation.run(0.02)
        assert (port in simulation.engine._shed) == (port.enhancement in ("shed", "failed"))


def test_a_shed_call_that_ends_leaves_nothing_to_the_next_in_its_place() -> None:
    simulation = Simulation(2 * RATED)
    simulation.run(3)
    before = simulation.engine.shed_calls
    last = simulation.ports[-1]
    last.close()
    assert simulation.engine.shed_calls == before - 1
    fresh = simulation.call()
    assert fresh.slot == last.slot
    simulation.run(0.05)
    assert fresh.figures.shed_packets == 0


def test_an_event_loop_that_lags_counts_as_lateness() -> None:
    simulation = Simulation(4)
    simulation.run(1)
    assert not simulation.engine.overloaded
    simulation.lag = 2 * LATE
    simulation.run(1)
    assert simulation.engine.overloaded
    assert simulation.engine.shed_calls


def test_the_rating_follows_from_the_costs() -> None:
    assert rated_calls(0.001, 0.0003, 0.0007) == int((MARGIN * 20 - 4) / 1)
    assert rated_calls(0.001, 0.0003, 0.0007, share=0.5) == int((MARGIN * 10 - 4) / 1)
    assert rated_calls(1.0, 1.0, 0) == 1


@pytest.mark.parametrize(("per_batch", "per_call"), [(PER_BATCH, PER_CALL), (0.0002, 0.002)])
def test_the_rating_is_measured(per_batch: float, per_call: float) -> None:
    clock = Clock()

    class Costly(Slow):
        def process(self, x: Float, streams: Sequence[int]) -> Float:
            y = super().process(x, streams)
            clock.now += per_batch - PER_BATCH + (per_call - PER_CALL) * len(streams)
            return y

    enhancer = Costly(32, clock)
    found = measured(enhancer, 1.0, clock, lambda: 0.001)  # type: ignore[arg-type]
    assert abs(found - rated_calls(per_batch, per_call, 0.001)) <= 1
    assert not enhancer._delayed.any()


def test_what_a_packet_costs_is_measured_in_packets() -> None:
    ticks = itertools.count()
    assert media_time(lambda: next(ticks)) == WHOLE_WAY  # one tick from the clock before to the clock after
    assert 1e-5 < media_time() < 0.1
