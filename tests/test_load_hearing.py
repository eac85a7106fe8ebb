"""What the load test makes of packets: lag, delay, audio missing, enhancement."""

from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from percepnet.framing import Float, Pcm
from server.loadtest.hearing import Delays, delays, enhancement, is_enhanced, lag, percentiles, tardiness
from server.loadtest.speech import Speech, decode
from server.loadtest.wire import Log

PACKET = 960
RATE = 48_000
LOOKAHEAD = 624  # samples, of two encoders


@pytest.fixture(scope="module")
def pcm(noisy: Float) -> Pcm:
    return (noisy * 32768).astype(np.int16)


@pytest.fixture(scope="module")
def speech(pcm: Pcm) -> Speech:
    return Speech.of(pcm)


def rtp(timestamp: int) -> bytes:
    return b"\x80\x6f\x00\x00" + (timestamp % 2**32).to_bytes(4, "big") + bytes(4)


def log(times: NDArray[np.int64], at: NDArray[np.float64]) -> Log:
    made = Log()
    made.times.extend(times.tolist())
    made.at.extend(at.tolist())
    return made


@pytest.mark.parametrize("shift", [-30_000, -961, -1, 0, 1, 1440, 2064, 48_000, 100_001])
def test_the_lag_is_that_of_the_audio(pcm: Pcm, shift: int) -> None:
    whole = pcm[: 6 * RATE]
    heard = pcm.take(range(-shift, 6 * RATE - shift), mode="wrap")
    assert lag(whole, heard) == shift
    rng = np.random.default_rng(0)
    assert lag(whole, (heard * 0.1 + rng.normal(0, 300, len(heard))).astype(np.int16)) == shift


def test_what_is_not_the_same_speech_has_no_lag(pcm: Pcm) -> None:
    noise = np.random.default_rng(0).normal(0, 3000, 6 * RATE).astype(np.int16)
    assert lag(pcm[: 6 * RATE], noise) is None
    assert lag(pcm[: 6 * RATE], np.zeros(6 * RATE, np.int16)) is None


def test_times_go_on_over_the_wrap_of_timestamps_and_overtaking_packets_are_before() -> None:
    made = Log()
    start = 2**32 - 2 * PACKET
    assert [made.note(rtp(start + n * PACKET)) for n in (0, 2, 1, 3, -1, 4)] == [
        n * PACKET for n in (0, 2, 1, 3, -1, 4)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_delay_and_missing_audio_are_those_of_the_packets(seed: int) -> None:
    """A server that adds ``delay`` and makes audio late in its packets by ``algorithm``; the first are unheard."""
    chance = Random(seed)
    count = chance.randrange(300, 900)
    algorithm, unheard = chance.choice([0, 1440, 100]), chance.randrange(0, 20)
    delay = np.array([chance.uniform(0.002, 0.4) for _ in range(count)])
    gone = set(chance.sample(range(count), chance.randrange(0, 60)))
    lost = set(chance.sample(range(count), chance.randrange(0, 60)))
    left = np.arange(count) * PACKET
    left_at = 100 + left / RATE
    kept = np.array([n for n in range(unheard, count) if n not in gone])
    came = (kept - kept[0]) * PACKET
    late = algorithm + LOOKAHEAD - int(kept[0]) * PACKET
    came_at = left_at[kept] + delay[kept]
    order = np.argsort(came_at)
    found = delays(
        log(left, left_at),
        {n * PACKET for n in lost},
        log(came[order], came_at[order]),
        late + chance.randrange(-5, 6),
    )

    counted = [n for n in range(count) if came_at.min() + 1 <= left_at[n] <= left_at[-1] - 1]
    missing = [n for n in counted if n in gone]
    assert found.asked == len(counted)
    np.testing.assert_allclose(found.missing_at, left_at[missing])
    assert found.missing_percent == pytest.approx(100 * len(missing) / len(counted))
    real = [n for n in counted if n not in gone and n not in lost]
    np.testing.assert_allclose(found.ms, delay[real] * 1e3 + algorithm / 48, atol=0.2)
    np.testing.assert_allclose(found.at, left_at[real])


def test_audio_that_is_not_recognised_may_be_missing_but_has_no_delay() -> None:
    times = np.arange(500) * PACKET
    at = times / RATE
    stopped = delays(log(times, at), set(), log(times[:250], at[:250] + 0.1), None)
    assert stopped.missing_percent == pytest.approx(100 * 200 / 395, abs=1)
    assert len(stopped.ms) == 0
    nothing = delays(log(times, at), set(), Log(), None)
    assert nothing.asked == 0
    assert nothing.missing_percent == nothing.drift_ms == 0


def test_drift_is_the_growth_of_the_delay() -> None:
    ms = np.linspace(40, 100, 600)
    found = Delays(np.arange(600) / 50, ms, np.zeros(0), 600)
    assert found.drift_ms == pytest.approx(50, abs=1)  # between the middles of the first sixth and the last


def test_callers_are_tardy_by_what_the_worst_of_100_packets_left_late() -> None:
    times = np.arange(1000) * PACKET
    at = 7 + times / RATE
    assert tardiness(log(times, at)) == pytest.approx(0, abs=1e-6)
    at[::50] += 0.030
    assert tardiness(log(times, at)) == pytest.approx(30)
    assert tardiness(Log()) == 0


def test_percentiles_are_of_all_values_and_of_none_none() -> None:
    values = np.random.default_rng(1).permutation(10_001) / 100
    assert percentiles(values) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "longest": 100.0}
    assert percentiles(np.zeros(0)) is None


def test_packets_hold_the_speech_and_the_loop_has_no_seam(speech: Speech) -> None:
    count = len(speech.payloads)
    assert len(speech.pcm) == count * PACKET
    assert min(map(len, speech.payloads)) > 10  # DTX would leave some almost empty
    around = [(count - 100 + n) % count for n in range(200)]
    heard, known = decode({n * PACKET: speech.payloads[at] for n, at in enumerate(around)}, 200 * PACKET)
    assert known.all()
    sent = speech.said(count - 100, 0, 200 * PACKET)
    late = lag(sent, heard)
    assert late == pytest.approx(LOOKAHEAD / 2, abs=10)
    np.testing.assert_array_equal(sent[100 * PACKET :], speech.pcm[: 100 * PACKET])
    change = enhancement(speech.said(count - 100, -late, 200 * PACKET), heard, known)
    assert change == pytest.approx((0, 0), abs=2)


def test_what_was_not_received_is_silent_and_unknown(speech: Speech) -> None:
    payloads = {n * PACKET: speech.payloads[n] for n in range(100) if n % 10}
    heard, known = decode({**payloads, -PACKET: b"x", 50 * PACKET: b""}, 99 * PACKET + 100)
    assert (~known).sum() == 10 * PACKET
    assert not heard[~known].any()


def test_enhanced_is_what_has_quieter_pauses_and_the_same_speech(pcm: Pcm) -> None:
    level = np.square(pcm[: len(pcm) // PACKET * PACKET].reshape(-1, PACKET).astype(float)).mean(1)
    pause = np.repeat(level <= np.percentile(level, 30), PACKET)
    sent = pcm[: len(pause)]
    known = np.ones(len(sent), bool)

    def judged(heard: Pcm) -> bool:
        change = enhancement(sent, heard, known)
        assert change is not None
        return is_enhanced(*change)

    assert judged(np.where(pause, sent // 10, sent).astype(np.int16))
    assert not judged(sent)
    assert not judged(sent // 10)
    assert not judged(np.zeros_like(sent))
    assert not judged(np.where(pause, sent, sent // 10).astype(np.int16))


def test_frames_that_did_not_come_are_not_judged(pcm: Pcm) -> None:
    sent = pcm[: 400 * PACKET]
    known = np.ones(len(sent), bool)
    known[100 * PACKET : 300 * PACKET + 1] = False
    change = enhancement(sent, np.where(known, sent, 0).astype(np.int16), known)
    assert change == pytest.approx((0, 0), abs=0.01)
    assert enhancement(sent, sent, np.zeros(len(sent), bool)) is None


def test_clean_speech_has_nothing_that_could_be_taken_away(clean: Float) -> None:
    sent = (clean * 32767).astype(np.int16)
    assert enhancement(sent, sent, np.ones(len(sent), bool)) is None


def test_steady_noise_has_no_pauses_to_judge() -> None:
    noise = np.random.default_rng(0).normal(0, 3000, 4 * RATE).astype(np.int16)
    assert enhancement(noise, noise, np.ones(len(noise), bool)) is None
