"""The 34 overlapping triangular bands, spaced by the ear's equivalent rectangular bandwidth.

Source: P20 section 2; Glasberg and Moore 1990: ERB(f) = 24.7·(4.37·f/kHz + 1), walked down from 20 kHz with a
minimum width of 100 Hz.
"""

from itertools import pairwise
from typing import Final

import numpy as np

from percepnet.framing import BIN_HZ, BINS, Complex, Float

KNOTS: Final = (
    0, 2, 4, 6, 8, 10, 12, 15, 18, 21, 24, 28, 32, 36, 41, 47, 53, 60, 68, 77, 87, 98, 110, 124, 140, 157, 176, 198,
    223, 251, 282, 317, 356, 400,
)  # fmt: skip  # bins
BANDS: Final = len(KNOTS)
CENTRES_HZ: Final = np.array(KNOTS) * BIN_HZ


def _triangles() -> Float:
    """``[BINS, BANDS]``: row k holds the shares of bin k in its two bands; rows sum to 1 up to the last knot."""
    weights = np.zeros((BINS, BANDS), np.float32)
    for band, (low, high) in enumerate(pairwise(KNOTS)):
        share = np.arange(high - low) / (high - low)
        weights[low:high, band] = 1 - share
        weights[low:high, band + 1] = share
    return weights


_ENERGY = _triangles()
_ENERGY[KNOTS[-1], -1] = 1
_INTERPOLATION = _ENERGY.copy()
# Above 20 kHz the gain of the last band holds, so that gain 1 is transparent.
_INTERPOLATION[KNOTS[-1] :, -1] = 1
_ENERGY[:, [0, -1]] *= 2  # half triangles
_INTERPOLATION = np.ascontiguousarray(_INTERPOLATION.T)
WIDTHS: Final[Float] = _ENERGY.sum(0)  # bins per band, [BANDS]


def energy(spectra: Complex) -> Float:
    """Band energies ‖Y_b‖² ``[…, BANDS]`` of spectra ``[…, BINS]``."""
    return power(spectra) @ _ENERGY


def cross(a: Complex, b: Complex) -> Float:
    """Band cross terms Re(A_b^H B_b) ``[…, BANDS]`` of spectra ``[…, BINS]``."""
    return (a.real * b.real + a.imag * b.imag) @ _ENERGY


def power(spectra: Complex) -> Float:
    """|Y|² of every bin; twice as fast as ``abs(…)**2``."""
    return spectra.real**2 + spectra.imag**2


def interpolate(values: Float) -> Float:
    """Band values ``[…, BANDS]`` to bins ``[…, BINS]`` by the same triangles."""
    return values @ _INTERPOLATION
