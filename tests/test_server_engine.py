"""The engine: batches, order, isolation of calls, faults, queues."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from engines import TIMEOUT, Ear, Gate, alone, delayed, together

from percepnet import Enhancer
from percepnet.framing import SEAM, Float
from percepnet.network import Network
from server.controls import Controls
from server.engine import Engine, EngineFull
from server.fallback import RETRY_PACKETS, WARM_UP_PACKETS
from server.frames import PACKET
from server.gathering import BUSY, LONGEST, SPARE, Gathering


@pytest.fixture
def gate() -> Gate:
    return Gate(4)


@pytest.fixture
def engine(gate: Gate) -> Iterator[Engine]:
    engine = Engine(gate, streams=4, queue_packets=10, clock=lambda: 0.0)  # nothing is ever late
    engine.start()
    gate.batches.clear()
    while gate.entered.acquire(blocking=False):
        pass
    yield engine
    gate.open.set()
    engine.stop()
    assert not engine.alive


@pytest.mark.parametrize(
    ("share", "patience"), [(0.5 * SPARE, 0), ((SPARE + BUSY) / 2, LONGEST / 2), (1.5 * BUSY, LONGEST)]
)
def test_the_busier_the_engine_the_longer_packets_wait_for_others(share: float, patience: float) -> None:
    gathering = Gathering()
    assert gathering.patience == 0
    for n in range(500):
        gathering.note(n * 0.02, (n + share) * 0.02)
    assert gathering.patience == pytest.approx(patience, abs=1e-5)
    gathering.note(100, 100.001)
    assert gathering.patience == 0


def test_two_interleaved_calls_get_what_separate_enhancers_give(engine: Engine, noisy: Float) -> None:
    one, two = noisy[: 50 * PACKET], noisy[100 * PACKET : 150 * PACKET]
    a, b = Ear(engine), Ear(engine)
    for n in range(50):
        a.port.submit(n, one[n * PACKET :][:PACKET])
        if n % 3:
            b.wait(n)
        b.port.submit(n, two[n * PACKET :][:PACKET])
        a.wait(n + 1)
    for ear, pcm in ((a, one), (b, two)):
        wanted = alone(pcm)
        assert np.abs(ear.wait(50) - wanted).max() < 1e-6
        assert [time for time, _ in ear.heard] == list(range(50))
        assert np.abs(wanted - delayed(pcm)).max() > 0.02  # it is not the dry signal that they share


def test_a_packet_alone_is_a_batch_at_once(engine: Engine, gate: Gate, noisy: Float) -> None:
    ear = Ear(engine)
    ear.say(noisy[: 5 * PACKET])
    assert gate.batches == [[ear.port.slot]] * 5
    assert ear.port.figures.batch == 1


def test_what_waits_when_the_engine_becomes_free_is_one_batch(
    engine: Engine, gate: Gate, noisy: Float
) -> None:
    ears = [Ear(engine) for _ in range(4)]
    gate.open.clear()
    ears[0].port.submit(0, noisy[:PACKET])
    assert gate.entered.acquire(timeout=TIMEOUT)
    for n in range(2):
        for ear in ears[1:]:
            ear.port.submit(n, noisy[n * PACKET :][:PACKET])
    gate.open.set()
    for ear in ears[1:]:
        ear.wait(2)
        assert [time for time, _ in ear.heard] == [0, 1]  # two packets of a call: two batches, in order
    others = sorted(ear.port.slot for ear in ears[1:])
    assert [sorted(batch) for batch in gate.batches] == [[ears[0].port.slot], others, others]


def test_controls_hold_from_the_next_packet(engine: Engine, noisy: Float) -> None:
    ear = Ear(engine)
    wet = ear.say(noisy[: 50 * PACKET])
    ear.port.set({"enabled": False})
    assert ear.port.controls == Controls(enabled=False)
    ear.say(noisy[50 * PACKET : 60 * PACKET])
    everything = ear.wait(60)
    dry = delayed(noisy[: 60 * PACKET])
    assert np.abs(wet - dry[: 50 * PACKET]).max() > 0.02
    assert np.abs(everything - dry)[55 * PACKET :].max() < 1e-6


def test_a_call_begins_with_the_controls_it_was_opened_with(engine: Engine, noisy: Float) -> None:
    pcm = noisy[: 20 * PACKET]
    ear = Ear(engine, Controls(enabled=False))
    assert np.abs(ear.say(pcm) - delayed(pcm)).max() < 1e-6


def test_a_place_given_back_is_as_new_for_the_next_call(engine: Engine, noisy: Float) -> None:
    first = Ear(engine, Controls(attenuation_limit_db=3, postfilter=False))
    first.say(noisy[: 50 * PACKET])
    first.port.close()
    second = Ear(engine)
    assert second.port.slot == first.port.slot
    pcm = noisy[100 * PACKET : 150 * PACKET]
    assert np.abs(second.say(pcm) - alone(pcm)).max() < 1e-6


def test_a_closed_port_takes_and_gives_nothing(engine: Engine, gate: Gate, noisy: Float) -> None:
    ear, other = Ear(engine), Ear(engine)
    gate.open.clear()
    ear.port.submit(0, noisy[:PACKET])
    assert gate.entered.acquire(timeout=TIMEOUT)
    ear.port.submit(1, noisy[:PACKET])
    ear.port.close()
    ear.port.close()
    ear.port.submit(2, noisy[:PACKET])
    gate.open.set()
    other.say(noisy[: 2 * PACKET])
    assert ear.heard == []


def test_a_call_that_never_sent_a_packet_leaves_nothing(engine: Engine) -> None:
    ear = Ear(engine)
    ear.port.set({"enabled": False})
    port = weakref.ref(ear.port)
    ear.port.close()
    del ear
    gc.collect()
    assert port() is None


def test_a_full_engine_says_so(engine: Engine) -> None:
    ears = [Ear(engine) for _ in range(4)]
    with pytest.raises(EngineFull, match="4"):
        Ear(engine)
    ears[2].port.close()
    Ear(engine)


def test_a_full_queue_drops_the_oldest_and_counts(engine: Engine, gate: Gate, noisy: Float) -> None:
    ear = Ear(engine)
    gate.open.clear()
    ear.port.submit(0, noisy[:PACKET])
    assert gate.entered.acquire(timeout=TIMEOUT)
    for n in range(1, 15):
        ear.port.submit(n, noisy[n * PACKET :][:PACKET])
    gate.open.set()
    ear.wait(11)
    assert [time for time, _ in ear.heard] == [0, *range(5, 15)]
    assert (ear.port.figures.packets_in, ear.port.figures.dropped) == (15, 4)


def test_a_burst_of_one_call_is_no_overload(noisy: Float) -> None:
    now = 0.0

    class Slow(Enhancer):
        def process(self, x: Float, streams: list[int] | None = None) -> Float:  # type: ignore[override]
            nonlocal now
            now += 0.004  # s; a burst of 25 takes 0.1
            return super().process(x, streams=streams)

    engine = Engine(Slow(streams=2), streams=2, clock=lambda: now)
    burst, steady = Ear(engine), Ear(engine)
    for n in range(100):
        if n % 25 == 24:
            for part in range(25):
                burst.port.submit(n - 24 + part, noisy[part * PACKET :][:PACKET])
        steady.port.submit(n, noisy[n * PACKET :][:PACKET])
        while burst.port.waiting or steady.port.waiting:
            engine.work()
        now = max(now, n * 0.020)
    assert (len(burst.heard), len(steady.heard)) == (100, 100)
    assert (burst.port.figures.dropped, engine.shed_calls, engine.overloaded) == (0, 0, False)


class Patient(Gathering):
    """Would wait for ever."""

    patience = 1e6  # type: ignore[assignment]


def test_a_busy_engine_waits_for_the_packet_that_is_due_and_computes_both_at_once(
    gate: Gate, noisy: Float
) -> None:
    now = 0.0
    engine = Engine(gate, streams=4, clock=lambda: now)
    engine.start()
    a, b = Ear(engine), Ear(engine)
    a.say(noisy[:PACKET])
    b.say(noisy[:PACKET])
    engine._gathering = Patient()
    for n in range(1, 20):
        now += 0.018
        a.port.submit(n, noisy[n * PACKET :][:PACKET])
        now += 0.002
        b.port.submit(n, noisy[n * PACKET :][:PACKET])
        a.wait(n + 1)
        b.wait(n + 1)
    assert gate.batches[-19:] == [sorted([a.port.slot, b.port.slot])] * 19
    engine.stop()


@pytest.mark.parametrize("other", ["silent for a while", "hung up"])
def test_a_busy_engine_waits_for_nobody_else(other: str, gate: Gate, noisy: Float) -> None:
    now = 0.0
    engine = Engine(gate, streams=4, clock=lambda: now)
    engine.start()
    a, b = Ear(engine), Ear(engine)
    b.say(noisy[:PACKET])
    now = 0.1 if other == "silent for a while" else 0.015
    engine._gathering = Patient()
    if other == "hung up":
        b.port.close()
    a.say(noisy[:PACKET])
    engine.stop()


def test_a_fault_gives_that_call_dry_audio_and_leaves_the_others_alone(
    engine: Engine, gate: Gate, noisy: Float, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = noisy[: 60 * PACKET], noisy[100 * PACKET : 160 * PACKET]
    ill, well, blocker = Ear(engine), Ear(engine), Ear(engine)
    gate.faulty = lambda streams: ill.port.slot in streams
    for n in range(60):
        part = slice(n * PACKET, (n + 1) * PACKET)
        together(gate, blocker, {well: two[part], ill: one[part]})
    assert np.array_equal(ill.wait(60), delayed(one))
    assert np.abs(well.wait(60) - alone(two)).max() < 1e-6
    assert ill.port.figures.degraded
    assert not well.port.figures.degraded
    assert well.port.figures.faults == 0
    assert sorted([ill.port.slot, well.port.slot]) in map(sorted, gate.batches)
    assert caplog.text.count("a call gets dry audio") == 1


def test_a_fault_that_one_call_alone_does_not_have_changes_nothing(
    engine: Engine, gate: Gate, noisy: Float
) -> None:
    """The network fails once, on a batch of two; each of the two goes through alone, as if nothing had been."""
    one, two = noisy[: 30 * PACKET], noisy[100 * PACKET : 130 * PACKET]
    first, second, blocker = Ear(engine), Ear(engine), Ear(engine)
    sizes: list[int] = []

    class Fragile(Network):
        def __call__(self, features: Float, state: Float) -> tuple[Float, Float, Float]:
            sizes.append(len(features))
            if len(features) == 2 and sizes.count(2) == 15:
                raise MemoryError
            return super().__call__(features, state)

    gate.network = Fragile()
    for n in range(30):
        part = slice(n * PACKET, (n + 1) * PACKET)
        together(gate, blocker, {first: one[part], second: two[part]})
    assert (sizes.count(2), sizes.count(1)) == (30, 30 + 2)
    for ear, pcm in ((first, one), (second, two)):
        assert np.abs(ear.wait(30) - alone(pcm)).max() < 1e-6
        assert not ear.port.figures.degraded


def test_a_model_that_fails_for_all_gives_all_dry_audio(engine: Engine, gate: Gate, noisy: Float) -> None:
    pcm = noisy[: 20 * PACKET]
    gate.faulty = lambda streams: True
    ears = [Ear(engine) for _ in range(3)]
    for ear in ears:
        assert np.array_equal(ear.say(pcm), delayed(pcm))


def test_a_fault_that_passes_is_forgotten_without_a_gap(engine: Engine, gate: Gate, noisy: Float) -> None:
    pcm = np.resize(noisy, (RETRY_PACKETS + 50) * PACKET).astype(np.float32)
    gate.faulty = lambda streams: len(gate.batches) == 11
    ear = Ear(engine)
    heard = ear.say(pcm)
    back = (10 + RETRY_PACKETS) * PACKET
    assert not ear.port.figures.degraded
    fault = 10 * PACKET
    assert np.array_equal(heard[fault + SEAM : back], delayed(pcm)[fault + SEAM : back])
    steps = np.abs(np.diff(heard[: fault + PACKET]))
    assert steps[fault - 1] < steps.max() / 2  # no click
    # After a packet of transition it is what an enhancer gives that began with the warm-up.
    start = back - WARM_UP_PACKETS * PACKET
    fresh = alone(pcm[start:])
    assert np.abs(heard[back + PACKET :] - fresh[back + PACKET - start :]).max() < 1e-6


def test_a_sink_that_fails_harms_nobody(engine: Engine, noisy: Float) -> None:
    def broken(time: int, samples: Float) -> None:
        raise RuntimeError("gone")

    port, ear = engine.open(broken), Ear(engine)
    for n in range(5):
        port.submit(n, noisy[:PACKET])
    ear.say(noisy[: 5 * PACKET])
    assert engine.alive


def test_levels_are_those_of_the_signal(engine: Engine) -> None:
    ear = Ear(engine, Controls(enabled=False))
    sine = (0.1 * np.sin(np.arange(10 * PACKET) / 10)).astype(np.float32)
    ear.say(sine)
    assert ear.port.figures.level_in_db == pytest.approx(-23.0, abs=0.1)
    assert ear.port.figures.level_out_db == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("bad", [np.zeros(480, np.float32), np.zeros(960), np.zeros((1, 960), np.float32)])
def test_a_packet_of_another_kind_is_refused(engine: Engine, bad: Any) -> None:
    with pytest.raises(ValueError, match="960"):
        Ear(engine).port.submit(0, bad)
