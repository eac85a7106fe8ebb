import numpy as np
import pytest

from percepnet import bands
from percepnet.framing import BINS, WINDOW


def test_interpolation_is_a_partition_of_unity_up_to_24_khz() -> None:
    np.testing.assert_allclose(bands.interpolate(np.ones(bands.BANDS, np.float32)), np.ones(BINS), atol=1e-6)


def test_interpolation_returns_the_knots_and_runs_straight_between_them() -> None:
    values = np.random.default_rng(0).random(bands.BANDS).astype(np.float32)
    bins = bands.interpolate(values)
    np.testing.assert_allclose(bins[list(bands.KNOTS)], values, rtol=1e-6)
    low, high = bands.KNOTS[-2:]
    assert bins[(low + high) // 2] == pytest.approx((values[-2] + values[-1]) / 2, abs=0.02)


def test_white_spectrum_has_energy_in_proportion_to_band_width() -> None:
    np.testing.assert_allclose(bands.energy(np.ones(BINS, np.complex64)), bands.WIDTHS, rtol=1e-6)
    assert bands.WIDTHS[0] == pytest.approx(3)  # half triangle, counted twice: 2 · (1 + ½)


@pytest.mark.parametrize("band", [1, 8, 20, 32])
def test_a_bin_at_a_knot_belongs_to_that_band_alone(band: int) -> None:
    spectrum = np.zeros(BINS, np.complex64)
    spectrum[bands.KNOTS[band]] = 2j
    energy = bands.energy(spectrum)
    assert energy[band] == pytest.approx(4)
    assert energy.sum() == pytest.approx(4)


def test_nothing_above_20_khz_counts() -> None:
    spectrum = np.zeros(BINS, np.complex64)
    spectrum[bands.KNOTS[-1] + 1 :] = 1
    assert not bands.energy(spectrum).any()


def test_cross_term_of_a_signal_with_itself_is_its_energy() -> None:
    rng = np.random.default_rng(0)
    spectra = np.fft.rfft(rng.standard_normal((2, 3, WINDOW)).astype(np.float32))
    np.testing.assert_allclose(bands.cross(spectra, spectra), bands.energy(spectra), rtol=1e-5)
    np.testing.assert_allclose(bands.cross(spectra, 1j * spectra), 0, atol=1e-3)
