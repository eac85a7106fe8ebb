"""What the network is told, column by column, of energies and pitch that are known."""

import numpy as np
import pytest

from percepnet.bands import BANDS, WIDTHS
from percepnet.features import FEATURES, features
from percepnet.framing import Float
from percepnet.pitch import MAX_PERIOD, MIN_PERIOD

HOPS = 4


def told(
    energy: Float | None = None,
    *,
    period: int = MIN_PERIOD,
    correlation: float = 0,
    reference: Float | None = None,
) -> Float:
    """``[HOPS, FEATURES]`` of one stream; without ``energy`` all bins hold the same."""
    even = np.tile(WIDTHS, (1, HOPS, 1)).astype(np.float32)
    coherence = np.tile(np.linspace(-0.5, 1, BANDS), (1, HOPS, 1)).astype(np.float32)
    periods, correlations = np.full((1, HOPS), period), np.full((1, HOPS), correlation, np.float32)
    reference = np.full(1, np.nan, np.float32) if reference is None else reference
    return features(even if energy is None else energy, coherence, periods, correlations, reference)[0]


def test_levels_are_in_units_of_20_db_from_the_reference() -> None:
    energy = np.tile(WIDTHS, (1, HOPS, 1)).astype(np.float32)
    even = told(energy)[0, :BANDS]
    np.testing.assert_allclose(even, even[0], atol=1e-6)
    energy[..., 0] *= 100  # below what carries the reference
    energy[..., 1] *= 1e-4
    np.testing.assert_allclose(told(energy)[0, :3] - even[:3], [1, -2, 0], atol=1e-5)
    energy[..., 0], energy[..., 1] = 1e9, 0
    # the most and the least that is told
    np.testing.assert_allclose(told(energy)[0, :2], [1.5, -3], atol=1e-6)


def test_the_gain_of_a_microphone_is_not_told() -> None:
    energy = np.random.default_rng(0).uniform(0.1, 1, (1, HOPS, BANDS)).astype(np.float32)
    np.testing.assert_allclose(told(energy), told(1000 * energy), atol=1e-5)


def test_the_reference_follows_what_is_louder_at_once_and_what_is_quieter_within_seconds() -> None:
    energy, levels = np.tile(WIDTHS, (1, HOPS, 1)).astype(np.float32), []
    for change in (10, 0.1, 1e4):
        reference = np.full(1, np.nan, np.float32)
        told(energy, reference=reference)
        before = float(reference[0])
        told(energy * np.float32(change), reference=reference)
        levels.append(float(reference[0]) - before)
    # per hop a tenth of what it is behind, three thousandths of what it is ahead, and never more than 15 dB behind
    assert levels == pytest.approx([1 - 0.9**HOPS, 0.997**HOPS - 1, 4 - 1.5 * 0.9 ** (HOPS - 1)], abs=1e-4)


@pytest.mark.parametrize(
    ("period", "octave"),
    [(MIN_PERIOD, -1.5), (2 * MIN_PERIOD, -0.5), (MAX_PERIOD // 2, 0.5), (MAX_PERIOD, 1.5)],
)
def test_coherence_period_and_correlation_have_columns_of_their_own(period: int, octave: float) -> None:
    row = told(period=period, correlation=0.75)[-1]
    assert row.shape == (FEATURES,)
    np.testing.assert_allclose(row[BANDS : 2 * BANDS], np.linspace(-0.5, 1, BANDS), atol=1e-6)
    np.testing.assert_allclose(row[2 * BANDS :], [octave, 0.75], atol=1e-6)
