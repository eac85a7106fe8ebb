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


def _shares() -> Float:
    """``[BINS]``: the share of each bin that belongs to the band above the knot below it; 0 from the last knot on."""
    share = np.zeros(BINS, np.float32)
    for low, high in pairwise(KNOTS):
        share[low:high] = np.arange(high - low) / (high - low)
    return share


UPPER = _shares()
_UPPER_OF_BANDS = UPPER[: KNOTS[-1] + 1]
_BAND_BELOW = np.searchsorted(KNOTS, np.arange(BINS), side="right") - 1  # [BINS]
_STARTS = np.array(KNOTS)
_WHOLE = np.array([2, *[1] * (BANDS - 2), 2], np.float32)


def energy(spectra: Complex) -> Float:
    """Band energies ‖Y_b‖² ``[…, BANDS]`` of spectra ``[…, BINS]``."""
    return sums(power(spectra))


def cross(a: Complex, b: Complex) -> Float:
    """Band cross terms Re(A_b^H B_b) ``[…, BANDS]`` of spectra ``[…, BINS]``."""
    return sums(product(a, b))


def sums(values: Float) -> Float:
    """Triangle-weighted sums ``[…, BANDS]`` of ``values […, BINS]``; half triangles count double.

    By segments and not as a matrix product: BLAS adds up in an order that depends on how many rows there are, and what
    the network is told must not depend on who else is in the batch, or on how a recording is cut.
    """
    values = values[..., : KNOTS[-1] + 1]
    upper = values * _UPPER_OF_BANDS
    total = np.add.reduceat(values - upper, _STARTS, axis=-1)
    total[..., 1:] += np.add.reduceat(upper, _STARTS[:-1], axis=-1)
    total *= _WHOLE
    return total


def product(a: Complex, b: Complex) -> Float:
    """Re(A* B) of every bin."""
    products: Float = a.real * b.real
    products += a.imag * b.imag
    return products


def power(spectra: Complex) -> Float:
    """|Y|² of every bin; twice as fast as ``abs(…)**2``."""
    squares: Float = np.square(spectra.real)
    squares += np.square(spectra.imag)
    return squares


def interpolate(values: Float) -> Float:
    """Band values ``[…, BANDS]`` to bins ``[…, BINS]`` by the same triangles.

    Above 20 kHz the value of the last band holds, so that gain 1 is transparent.
    """
    rise = np.empty(values.shape, np.float32)
    np.subtract(values[..., 1:], values[..., :-1], out=rise[..., :-1])
    rise[..., -1] = 0
    bins: Float = rise.take(_BAND_BELOW, -1)
    bins *= UPPER
    bins += values.take(_BAND_BELOW, -1)
    return bins


WIDTHS: Final[Float] = sums(np.ones(BINS, np.float32))  # bins per band, [BANDS]
