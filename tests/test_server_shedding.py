"""When calls are shed and come back, by the figures alone; and those that are shed as the engine's thread dies."""

from types import SimpleNamespace

import numpy as np
import pytest
from simulation import GAIN, RATED, Simulation, dry

from percepnet.framing import SEAM
from server.frames import PACKET
from server.overload import LATE, LONGEST_QUIET, QUIET, TRIAL, WINDOW, Overload

STEP = 0.020  # s between batches


class Fed:
    """An Overload that is fed with batches of one packet each, on a clock of its own."""

    def __init__(self) -> None:
        self.overload = Overload()
        self.now = 0.0

    def _until(self, advice: int, age: float) -> float:
        begin = self.now
        while self.overload.note(self.now, [age]) != advice:
            self.now += STEP
            assert self.now - begin < 2 * LONGEST_QUIET
        return self.now - begin

    def shed(self) -> float:
        """Packets are late until a call is to be shed; returns how long that took, s."""
        return self._until(1, 1.5 * LATE)

    def returns(self) -> float:
        """Packets are in time until a call comes back; returns how long that took, s."""
        waited = self._until(-1, 0.0)
        self.overload.restored(self.now)
        return waited


def test_lateness_is_over_a_second_after_the_last() -> None:
    fed = Fed()
    assert not fed.overload.late(fed.now)
    fed.shed()
    assert fed.overload.late(fed.now + 0.9)
    assert not fed.overload.late(fed.now + 1.1)


def test_each_return_that_fails_makes_the_next_wait_twice_as_long_until_a_call_ends() -> None:
    fed = Fed()
    fed.shed()
    waits = []
    for _ in range(6):
        waits.append(fed.returns())
        assert fed.shed() < TRIAL
        fed.shed()  # a second call of the same failure: it counts once
    assert waits == pytest.approx([1, 2, 4, 8, 16, 16], abs=WINDOW + STEP)
    fed.overload.relieved()
    assert fed.returns() == pytest.approx(QUIET, abs=WINDOW + STEP)


def test_a_return_that_went_well_for_long_has_not_failed() -> None:
    fed = Fed()
    fed.shed()
    fed.returns()
    fed.now += 2 * TRIAL
    fed.shed()
    assert fed.returns() == pytest.approx(QUIET, abs=WINDOW + STEP)


def test_the_next_thread_after_one_that_died_begins_all_calls_as_new_and_sheds_none() -> None:
    """Nothing is missing of what they hear: it is their dry audio until there is enhanced again."""
    simulation = Simulation(RATED)
    engine = simulation.engine
    simulation.enhancer.factor = 2
    simulation.run(1)
    assert engine.shed_calls > 2
    simulation.enhancer.factor = 0.5
    simulation.run(0.5, until=lambda: not any(port.waiting for port in simulation.ports))
    begin = [len(heard) for heard in simulation.heard]
    begun: list[str] = []
    next_thread = SimpleNamespace(start=lambda: begun.append("a thread"), is_alive=lambda: True)
    engine._new_thread = lambda: next_thread  # type: ignore[assignment, method-assign, return-value]
    with engine._wake:
        engine._stand_still()
    assert begun == ["a thread"]
    assert engine.shed_calls == 0
    simulation.run(0.2)
    assert simulation.enhancements() == ["on"] * RATED
    for start, said, heard in zip(begin, simulation.said, simulation.heard, strict=True):
        wanted = np.abs(dry(said, len(heard)))
        share = np.abs(np.concatenate(heard)) / np.maximum(wanted, 1e-9)
        told = wanted > 1e-3  # elsewhere rounding is all there is
        since = np.arange(len(wanted)) >= start * PACKET + SEAM  # which leads over to it
        assert share[told & since].min() > GAIN - 1e-3


@pytest.mark.parametrize("waiting", [0, 1])
def test_a_call_goes_dry_without_a_step_as_the_thread_dies(waiting: int) -> None:
    """Whether a packet of it waited or not; enhanced, its constant is a quarter."""
    simulation = Simulation(0)
    engine, port = simulation.engine, simulation.call()
    engine._new_thread = lambda: SimpleNamespace(start=lambda: None, is_alive=lambda: True)  # type: ignore[assignment, method-assign, return-value]

    def say(packets: int) -> None:
        for _ in range(packets):
            port.submit(0, np.full(PACKET, 0.5, np.float32))

    for _ in range(10):
        say(1)
        assert engine.work()
    say(waiting)
    with engine._wake:
        engine._stand_still()
    for _ in range(10):
        say(1)
        assert engine.work()
    (heard,) = map(np.concatenate, simulation.heard)
    assert len(heard) == (20 + waiting) * PACKET
    settled = heard[5 * PACKET :]
    assert settled.max() == pytest.approx(0.5)
    assert settled[[0, -1]] == pytest.approx(0.5 * GAIN)
    assert np.abs(np.diff(settled)).max() < 0.01
