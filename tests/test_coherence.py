"""The coherence of signals whose periodic share is known, and the strength that restores it."""

import numpy as np
import pytest

from percepnet import bands, coherence, comb, framing
from percepnet.comb import HISTORY
from percepnet.framing import HOP, LOOKAHEAD, WINDOW, Float

PERIOD = 160
HOPS = 200
LENGTH = HISTORY + WINDOW + (LOOKAHEAD + HOPS - 1) * HOP


def periodic_and_noise(share: float, seed: int) -> Float:
    """A signal of power 1 with ``share`` (an amplitude, q) of it periodic."""
    rng = np.random.default_rng(seed)
    cycle = rng.standard_normal(PERIOD)
    cycle /= cycle.std()
    noise = rng.standard_normal(LENGTH)
    return (share * np.resize(cycle, LENGTH) + np.sqrt(1 - share**2) * noise).astype(np.float32)[None]


def analysed(samples: Float) -> tuple[Float, Float]:
    """Spectra of the frames and of their comb-filtered twins, ``[hops, bins]``."""
    plain = framing.spectrum(framing.frames(samples, HOPS, delay=LOOKAHEAD))
    combed = framing.spectrum(comb.comb(samples, np.full((1, HOPS), PERIOD)))
    return plain[0], combed[0]


def broadband_coherence(a: Float, b: Float) -> float:
    """Coherence over all bins and hops: what the bands measure, without the scatter of a single frame."""
    return float(np.sum(np.real(np.conj(a) * b)) / np.sqrt(np.sum(bands.power(a)) * np.sum(bands.power(b))))


@pytest.mark.parametrize(
    ("true", "measured"),
    [(0.2, 0.5), (0.3, 0.535), (0.5, 0.641), (0.6, 0.704), (0.7, 0.772), (0.8, 0.846), (0.9, 0.922)],
)
def test_bias_is_removed(true: float, measured: float) -> None:
    period = np.array([PERIOD])
    out = coherence.unbiased(np.array([[measured]], np.float32), period)
    assert out[0, 0] == pytest.approx(true, abs=0.01)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.7, 0.95])
def test_real_signals_measure_their_periodic_share(share: float) -> None:
    measured = broadband_coherence(*analysed(periodic_and_noise(share, seed=1)))
    unbiased = coherence.unbiased(np.array([[measured]], np.float32), np.array([PERIOD]))[0, 0]
    assert unbiased**2 == pytest.approx(share**2, abs=0.04)


def test_white_noise_measures_about_half_before_the_bias_is_removed() -> None:
    measured = broadband_coherence(*analysed(periodic_and_noise(0.0, seed=2)))
    assert measured == pytest.approx(0.471, abs=0.02)


@pytest.mark.parametrize(("clean", "noisy"), [(0.9, 0.7), (0.8, 0.5), (0.95, 0.9)])
def test_ideal_strength_brings_the_mix_to_the_clean_coherence(clean: float, noisy: float) -> None:
    """Mix a real noisy signal with its comb at r: its ratio of periodic to other power is the clean one's."""
    rng = np.random.default_rng(3)
    cycle = rng.standard_normal(PERIOD)
    voiced = (noisy * np.resize(cycle / cycle.std(), LENGTH)).astype(np.float32)[None]
    other = (np.sqrt(1 - noisy**2) * rng.standard_normal((1, LENGTH))).astype(np.float32)
    period = np.array([PERIOD])
    plain, combed = analysed(voiced + other)
    measured = np.array([[broadband_coherence(plain, combed)]], np.float32)
    unbiased = coherence.unbiased(measured, period)
    r = coherence.ideal_strength(np.array([[clean]], np.float32), unbiased, measured, period)
    strength = r.item()
    scale = np.sqrt(np.sum(bands.power(plain)) / np.sum(bands.power(combed)))

    def mixed(samples: Float) -> float:
        own, its_comb = analysed(samples)
        return float(np.sum(bands.power((1 - strength) * own + strength * scale * its_comb)))

    share = mixed(voiced) / (mixed(voiced) + mixed(other))
    assert share == pytest.approx(clean**2, abs=0.04)


def test_strength_is_zero_without_need_and_one_beyond_reach() -> None:
    period = np.array([PERIOD, PERIOD])
    clean = np.array([[0.3], [0.999]], np.float32)
    noisy = np.array([[0.5], [0.3]], np.float32)
    measured = np.array([[0.641], [0.535]], np.float32)
    strength = coherence.ideal_strength(clean, noisy, measured, period)
    np.testing.assert_array_equal(strength[:, 0], [0, 1])
