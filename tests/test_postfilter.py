import numpy as np
import pytest

from percepnet.bands import BANDS
from percepnet.postfilter import envelope_postfilter


def test_gains_of_one_and_zero_stay() -> None:
    amplitude = np.random.default_rng(0).random((2, 3, BANDS)).astype(np.float32)
    for value in (0, 1):
        gain = np.full((2, 3, BANDS), value, np.float32)
        np.testing.assert_allclose(envelope_postfilter(gain, amplitude), gain, atol=1e-6)


def test_strong_bands_keep_their_level_and_weak_ones_sink() -> None:
    gain = np.full((1, BANDS), 0.9, np.float32)
    gain[0, 10:20] = 0.2
    out = envelope_postfilter(gain, np.ones((1, BANDS), np.float32))
    assert out[0, 0] == pytest.approx(0.9, rel=0.05)
    assert out[0, 15] < 0.5 * 0.2


def test_level_given_back_is_bounded_by_5_6_db() -> None:
    levels = np.linspace(0.001, 1, 500, dtype=np.float32)[:, None] * np.ones(BANDS, np.float32)
    warped = levels * np.sin(np.pi / 2 * levels)
    lift = 20 * np.log10(envelope_postfilter(levels, np.ones_like(levels)) / warped)
    assert lift.max() == pytest.approx(5.6, abs=0.05)


def test_noise_only_frames_sink_further() -> None:
    gain = np.full((1, BANDS), 0.02, np.float32)
    assert envelope_postfilter(gain, np.ones((1, BANDS), np.float32)).max() < 0.02
