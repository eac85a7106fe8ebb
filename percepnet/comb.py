"""Comb filter over eleven pitch periods: keeps what repeats with the period, averages out what does not.

    p̂(n) = Σ_{k=−5}^{5} w_k · y(n − kT),   Σ w_k = 1

Source: P20 section 3.1. Taps that would need samples from beyond the look-ahead are dropped and the rest
re-normalised, so the filter's noise power σ²(T) = Σ w_k² depends on the period.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from percepnet.framing import HOP, LOOKAHEAD, WINDOW, Float, windows
from percepnet.pitch import MAX_PERIOD

SIDE_TAPS: Final = 5  # M: periods on each side
HISTORY: Final = SIDE_TAPS * MAX_PERIOD  # samples needed before the frame that is filtered
_SHIFTS: Final = np.arange(-SIDE_TAPS, SIDE_TAPS + 1)  # k, in periods into the past


def _weights_of_periods() -> Float:
    """``[MAX_PERIOD + 1, taps]``: the weights that remain at each period, summing to 1."""
    taps = 2 * SIDE_TAPS + 1
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, taps + 1) / (taps + 1))
    periods = np.arange(MAX_PERIOD + 1)[:, None]
    weights = np.where(-_SHIFTS * periods <= LOOKAHEAD * HOP, hann, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


WEIGHTS: Final[Float] = _weights_of_periods()
CENTRE_WEIGHT: Final[Float] = WEIGHTS[:, SIDE_TAPS].copy()  # w_0(T)
# σ²(T): the power that is left of noise that differs from period to period
NOISE_POWER: Final[Float] = np.square(WEIGHTS).sum(1)


def comb(samples: Float, period: NDArray[np.int64]) -> Float:
    """Filter the ``hops`` frames that end ``LOOKAHEAD`` hops before the end of ``samples``.

    samples: ``[streams, n]``, n ≥ HISTORY + WINDOW + (LOOKAHEAD + hops − 1) · HOP
    period: T ``[streams, hops]`` in samples, one per frame
    Returns p̂ ``[streams, hops, WINDOW]``, not windowed.
    """
    streams, hops = period.shape
    last = samples.shape[1] - WINDOW
    first = last - (LOOKAHEAD + hops - 1) * HOP
    starts = first + HOP * np.arange(hops)[:, None] - _SHIFTS * period[..., None]  # [streams, hops, taps]
    np.minimum(starts, last, out=starts)  # taps of weight 0 must stay inside
    every = windows(samples, last + 1, WINDOW, step=1)
    # [streams, hops, taps, WINDOW]; copies whole rows
    taps = every[np.arange(streams)[:, None, None], starts]
    # not BLAS, whose threads cost more than they bring
    return np.einsum("shk,shkn->shn", WEIGHTS[period], taps)
