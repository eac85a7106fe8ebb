"""Batches that fail, and calls that fail in them: what is heard of them, and what the next call has of it."""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np
import pytest
from engines import Ear, Gate, alone, delayed, together
from numpy.typing import NDArray

from percepnet import Enhancer
from percepnet.framing import SEAM, Float
from server.controls import Changes
from server.engine import Engine
from server.fallback import RETRY_PACKETS, WARM_UP_PACKETS
from server.frames import PACKET


class Broken(Gate):
    """Answers without a fault, but with audio that is no number for some calls."""

    numberless: frozenset[int] = frozenset()

    def process(self, x: Float, streams: Sequence[int] | NDArray[np.int64] | None = None) -> Float:
        y = super().process(x, streams=streams)
        assert streams is not None
        y[[stream in self.numberless for stream in streams], -1] = np.nan
        return y


@pytest.fixture
def gate() -> Broken:
    return Broken(4)


@pytest.fixture
def engine(gate: Broken) -> Iterator[Engine]:
    engine = Engine(gate, streams=4, clock=lambda: 0.0)  # nothing is ever late
    engine.start()
    yield engine
    engine.stop()


def fails_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    work: Callable[..., object] = getattr(owner, name)
    calls = count()

    def sometimes(*args: object) -> object:
        if next(calls) == call:
            raise RuntimeError("a fault on purpose")
        return work(*args)

    monkeypatch.setattr(owner, name, sometimes)


def test_a_batch_that_fails_outside_of_the_enhancer_is_heard_dry(
    engine: Engine, noisy: Float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pcm = noisy[: 30 * PACKET]
    ear, other = Ear(engine), Ear(engine)
    fails_once(monkeypatch, engine._fallback, "process", 10)
    heard, dry = ear.say(pcm), delayed(pcm)
    assert [time for time, _ in ear.heard] == list(range(30))
    start, warm = 10 * PACKET, (11 + WARM_UP_PACKETS) * PACKET
    assert np.abs(heard[:start] - alone(pcm[:start])).max() < 1e-6
    assert np.array_equal(heard[start + SEAM : warm], dry[start + SEAM : warm])
    wanted = alone(pcm[start + PACKET :])
    assert np.abs(heard[warm + PACKET :] - wanted[(WARM_UP_PACKETS + 1) * PACKET :]).max() < 1e-6
    assert (ear.port.figures.passed, ear.port.enhancement) == (1, "on")
    assert np.abs(other.say(pcm) - alone(pcm)).max() < 1e-6
    assert caplog.text.count("the engine failed on a batch of 1") == 1


def test_a_fault_after_a_batch_was_handed_over_changes_nothing(
    engine: Engine, noisy: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pcm = noisy[: 20 * PACKET]
    ear = Ear(engine)
    fails_once(monkeypatch, engine, "_balance", 10)
    assert np.abs(ear.say(pcm) - alone(pcm)).max() < 1e-6
    assert [time for time, _ in ear.heard] == list(range(20))


def test_audio_that_is_no_number_is_not_heard(
    engine: Engine, gate: Broken, noisy: Float, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = noisy[: 20 * PACKET], noisy[100 * PACKET : 120 * PACKET]
    ill, well, blocker = Ear(engine), Ear(engine), Ear(engine)
    gate.numberless = frozenset([ill.port.slot])
    for n in range(20):
        part = slice(n * PACKET, (n + 1) * PACKET)
        together(gate, blocker, {well: two[part], ill: one[part]})
    assert np.array_equal(ill.wait(20), delayed(one))
    assert np.abs(well.wait(20) - alone(two)).max() < 1e-6
    assert (ill.port.enhancement, well.port.enhancement) == ("failed", "on")
    assert (ill.port.figures.faults, well.port.figures.faults) == (1, 0)
    assert "not finite" in caplog.text


def raises(gate: Broken, slot: int) -> None:
    gate.faulty = lambda streams: slot in streams


def is_numberless(gate: Broken, slot: int) -> None:
    gate.numberless = frozenset([slot])


def has_a_network_without_numbers(gate: Broken, slot: int) -> None:
    network = gate.network
    gate.network = lambda *arguments: tuple(part * np.nan for part in network(*arguments))  # type: ignore[assignment]


FAULTS = [raises, is_numberless, has_a_network_without_numbers]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_place_of_a_call_that_failed_is_as_new_for_the_next(
    fault: Callable[[Broken, int], None], engine: Engine, gate: Broken, noisy: Float
) -> None:
    network = gate.network
    pcm = noisy[: 10 * PACKET]
    first = Ear(engine)
    fault(gate, first.port.slot)
    first.say(pcm)
    assert (first.port.enhancement, first.port.figures.faults) == ("failed", 1)
    first.port.close()
    gate.faulty, gate.numberless, gate.network = lambda streams: False, frozenset(), network
    second = Ear(engine)
    assert second.port.slot == first.port.slot
    assert np.abs(second.say(pcm) - alone(pcm)).max() < 1e-6
    assert (second.port.enhancement, second.port.figures.faults) == ("on", 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_call_that_fails_is_told_even_in_the_place_of_one_that_did(
    fault: Callable[[Broken, int], None],
    engine: Engine,
    gate: Broken,
    noisy: Float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for calls in (1, 2):
        ear = Ear(engine)
        if calls == 1:
            fault(gate, ear.port.slot)
        ear.say(noisy[: 3 * PACKET])
        assert (ear.port.enhancement, ear.port.figures.faults) == ("failed", 1)
        assert caplog.text.count("a call gets dry audio") == calls
        ear.port.close()


@pytest.mark.parametrize("warmed", range(WARM_UP_PACKETS + 1))
def test_a_call_that_comes_back_from_a_fault_hears_no_splice_where_a_packet_went_past(
    warmed: int, noisy: Float
) -> None:
    gate = Broken(1)
    engine = Engine(gate, streams=1, clock=lambda: 0.0)  # its thread does not run
    ear, pcm = Ear(engine), noisy[: (RETRY_PACKETS + 20) * PACKET]
    raises(gate, ear.port.slot)
    past = RETRY_PACKETS - WARM_UP_PACKETS + warmed
    for n, samples in enumerate(pcm.reshape(-1, PACKET)):
        ear.port.submit(n, samples)
        if n == past:
            with engine._wake:
                engine._pass([ear.port])
        else:
            engine.work()
        gate.faulty = lambda streams: False
    back = past + 1
    heard, wanted = ear.wait(len(pcm) // PACKET)[back * PACKET :], alone(pcm[back * PACKET :])
    assert np.abs(heard - wanted)[(WARM_UP_PACKETS + 1) * PACKET :].max() < 1e-6


def test_a_call_whose_packets_went_past_leaves_nothing() -> None:
    engine = Engine(Enhancer(), streams=1)  # its thread does not run
    port = engine.open(lambda time, samples: None)
    port.set(Changes(enabled=False))
    port.submit(0, np.zeros(PACKET, np.float32))
    with engine._wake:
        engine._pass([port])
    assert port.figures.packets_out == 1
    gone = weakref.ref(port)
    port.close()
    del port
    gc.collect()
    assert gone() is None
