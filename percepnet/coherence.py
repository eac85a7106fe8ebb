"""Pitch coherence per band, its bias removed, and the comb strength that reaches a wanted coherence.

Source: P20 section 3.2. The unbiased forms are derived here: the comb's centre tap carries w_0 of the frame's own noise
into P̂, so the plain coherence of white noise measures w_0/σ = 0.47 instead of 0.
"""

import numpy as np
from numpy.typing import NDArray

from percepnet import comb
from percepnet.framing import Float


def _coefficients() -> Float:
    """``[6, MAX_PERIOD + 1]``: σ², 1 − σ², w₀², 2w₀(1−w₀), 2(1−w₀)² and 4(1−w₀)² at each period."""
    w0, noise = comb.CENTRE_WEIGHT, comb.NOISE_POWER
    twice_a = 2 * np.square(1 - w0)
    return np.stack([noise, 1 - noise, w0 * w0, 2 * w0 * (1 - w0), twice_a, 2 * twice_a])


QUADRATIC = _coefficients()
# Coherences that differ less are the same, or rounding would decide between r = 0 and 1.
_SAME = np.float32(1e-3)


def measured(cross: Float, energy_signal: Float, energy_comb: Float) -> Float:
    """m_b = Re(P̂_b^H Y_b) / (‖P̂_b‖ ‖Y_b‖) clamped to [0, 1], from band values ``[…, BANDS]``."""
    ratio = cross / np.sqrt(energy_signal * energy_comb + np.float32(1e-18))
    return np.minimum(np.maximum(ratio, 0), 1)


def unbiased(measure: Float, period: NDArray[np.int64]) -> Float:
    """Coherence q_b ``[…, BANDS]`` of a signal with its own periodic part, from the measured one at T ``[…]``.

    Solves (1−w₀)²u² + [2w₀(1−w₀) − m²(1−σ²)]u + w₀² − m²σ² = 0 for u = q², the larger root; 0 where m ≤ w₀/σ.
    """
    noise, other, square, cross, twice_a, four_a = QUADRATIC.take(period, 1)[..., None]
    m2 = np.square(measure)
    b = cross - m2 * other
    m2 *= noise
    root = b * b
    root -= four_a * (square - m2)
    np.sqrt(np.maximum(root, 0, out=root), out=root)
    root -= b
    root /= twice_a
    root *= m2 > square
    return np.sqrt(np.minimum(np.maximum(root, 0, out=root), 1, out=root))


def of_comb(coherence: Float, period: NDArray[np.int64]) -> Float:
    """Coherence q_p̂ ``[…, BANDS]`` of the comb filter's output, from the unbiased q_y."""
    noise = comb.NOISE_POWER[period][..., None]
    return coherence / np.sqrt((1 - noise) * np.square(coherence) + noise)


def ideal_strength(clean: Float, noisy: Float, measure: Float, period: NDArray[np.int64]) -> Float:
    """The comb strength r_b in [0, 1] that gives the noisy band the clean one's coherence.

    clean, noisy: unbiased q_x and q_y ``[…, BANDS]``; measure: m of the noisy band; period: T ``[…]``. It is 0 where
    the band is coherent enough, 1 where even the pure comb is less coherent than the speech. P20 attenuates such
    bands further; with ideal gains that lowered PESQ, so it is left to what the network learns.
    """
    qx2, qy2 = np.square(clean), np.square(noisy)
    q_comb = of_comb(noisy, period)
    a = np.square(q_comb) - qx2
    b = q_comb * noisy - qx2 * measure
    gap = np.maximum(qx2 - qy2, 0)
    root = np.sqrt(np.maximum(b * b + a * gap, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        # (√(b² + a·gap) − b)/a = gap/(√(…) + b), which needs no limit at a → 0
        alpha = gap / (root + b)
    alpha = np.where(np.isfinite(alpha) & (alpha >= 0), alpha, np.float32(1e6))
    strength = np.where(clean <= noisy + _SAME, 0, np.where(q_comb > clean, alpha / (1 + alpha), 1))
    return strength.astype(np.float32)
