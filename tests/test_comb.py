import numpy as np
import pytest

from percepnet import comb
from percepnet.comb import HISTORY
from percepnet.framing import HOP, LOOKAHEAD, WINDOW, Float

HOPS = 4
LENGTH = HISTORY + WINDOW + (LOOKAHEAD + HOPS - 1) * HOP


def noise(streams: int = 1) -> Float:
    return np.random.default_rng(0).standard_normal((streams, LENGTH)).astype(np.float32)


def test_weights_are_those_published_where_all_taps_fit() -> None:
    published = [0.0112, 0.0417, 0.0833, 0.1250, 0.1555, 0.1667, 0.1555, 0.1250, 0.0833, 0.0417, 0.0112]
    np.testing.assert_allclose(comb.WEIGHTS[100], published, atol=1e-4)
    assert comb.NOISE_POWER[100] == pytest.approx(0.125, abs=1e-3)
    np.testing.assert_allclose(comb.WEIGHTS.sum(1), 1, atol=1e-6)


def test_no_tap_reaches_beyond_the_look_ahead() -> None:
    for period in (192, 193, 320, 480, 481, 768):
        future = [k for k in range(1, 6) if comb.WEIGHTS[period][comb.SIDE_TAPS - k] > 0]
        assert len(future) == min(5, LOOKAHEAD * HOP // period)


@pytest.mark.parametrize("period", [96, 131, 200, 333, 500, 768])
def test_equals_the_definition_sample_by_sample(period: int) -> None:
    samples = noise()
    periods = np.full((1, HOPS), period)
    out = comb.comb(samples, periods)
    first = LENGTH - WINDOW - (LOOKAHEAD + HOPS - 1) * HOP
    for hop, n in [(0, 0), (1, 500), (HOPS - 1, WINDOW - 1)]:
        at = first + hop * HOP + n
        terms = [
            w * samples[0, at - k * period]
            for k, w in zip(range(-5, 6), comb.WEIGHTS[period], strict=True)
            if w > 0
        ]
        assert out[0, hop, n] == pytest.approx(sum(terms), abs=1e-5)


@pytest.mark.parametrize("period", [96, 250, 700])
def test_passes_what_repeats_and_lowers_what_does_not_by_its_noise_power(period: int) -> None:
    cycle = np.random.default_rng(1).standard_normal(period).astype(np.float32)
    repeating = np.resize(cycle, (1, LENGTH))
    first = LENGTH - WINDOW - (LOOKAHEAD + HOPS - 1) * HOP
    periods = np.full((1, HOPS), period)
    np.testing.assert_allclose(
        comb.comb(repeating, periods)[0, 0], repeating[0, first : first + WINDOW], atol=1e-5
    )
    left = comb.comb(noise(64), np.full((64, HOPS), period)).var()
    assert left == pytest.approx(comb.NOISE_POWER[period], rel=0.05)


def test_each_stream_and_hop_has_its_own_period() -> None:
    samples = noise(3)
    periods = np.random.default_rng(2).integers(96, 769, (3, HOPS))
    together = comb.comb(samples, periods)
    for stream in range(3):
        np.testing.assert_allclose(
            comb.comb(samples[stream : stream + 1], periods[stream : stream + 1])[0],
            together[stream],
            atol=1e-6,
        )
