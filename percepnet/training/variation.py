"""Voices and rooms that nobody recorded: each mixture heard through another equaliser and another vocal tract.

Both act on what the shards hold, so every pass over the same mixtures is another. Some voices are raised with their
pitch, for children are few among recordings. Source: vocal tract length perturbation (Jaitly and Hinton 2013), here on
bands in place of bins.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from percepnet.bands import BANDS, CENTRES_HZ
from percepnet.features import FEATURES
from percepnet.framing import Float

_SHARE: Final = 0.5  # of mixtures that are warped, and of those that are equalised
_FACTORS: Final = (0.85, 1.18)  # of frequencies; men's and women's vocal tracts differ by some 1.18
_RAISED: Final = 0.2  # of mixtures whose pitch is raised, too
_RAISE: Final = (1.1, 1.6)  # factors of it
_FIXED_HZ: Final = 300.0  # below it single harmonics are told apart, whose pitch stays
_FREE_HZ: Final = 800.0  # from here on everything is warped
_TILT: Final = 6.0  # dB at either end
_RIPPLE: Final = 3.0  # dB, of two slow waves along the bands each
_FLAT: Final = 0.02  # less than that between the levels of a hop is digital silence
# octaves of the period as ``features`` has it; the tracker finds two of what is shorter
_SHORTEST: Final = -1.5
_DB: Final = 1 / 20  # of band levels, see ``features``
_LEVELS: Final = (-3.0, 1.5)  # where ``features`` clips them


def warp(factor: float, *, pitch: bool = False) -> Float:
    """Matrix ``[BANDS, BANDS]``: rows of bands times it are what is heard ``factor`` times as high.

    Without the ``pitch`` what is below ``_FIXED_HZ`` stays.
    """
    free = np.clip((CENTRES_HZ - _FIXED_HZ) / (_FREE_HZ - _FIXED_HZ), 0, 1) if not pitch else 1.0
    source = np.interp(CENTRES_HZ * factor**-free, CENTRES_HZ, np.arange(BANDS))
    return np.maximum(0, 1 - np.abs(np.arange(BANDS)[:, None] - source)).astype(np.float32)


def equaliser(rng: np.random.Generator) -> Float:
    """dB ``[BANDS]`` of a random smooth curve."""
    place = np.linspace(-1, 1, BANDS)
    curve = rng.uniform(-_TILT, _TILT) * place
    for waves in (1, 2):
        curve += rng.uniform(0, _RIPPLE) * np.cos(np.pi * waves * place + rng.uniform(0, 2 * np.pi))
    return curve.astype(np.float32)


class Variation:
    """The voices of ``rows`` mixtures that are drawn at once; ``amount``: of how many, and how far, 0 to 2."""

    def __init__(self, rows: int, amount: float = 1.0) -> None:
        self._amount = amount
        self._warp = np.tile(np.eye(BANDS, dtype=np.float32), (rows, 1, 1))
        self._level = np.zeros((rows, 1, BANDS), np.float32)
        self._raised = np.zeros((rows, 1), np.float32)  # octaves

    def renew(self, rows: NDArray[np.intp], rng: np.random.Generator) -> None:
        """Other voices for ``rows``, whose mixtures begin."""
        for row in rows:
            raised = rng.random() < self._amount * _RAISED
            factor = np.exp(rng.uniform(*np.log(_RAISE if raised else _FACTORS)))
            if not raised:
                factor **= self._amount * (rng.random() < self._amount * _SHARE)
            self._warp[row] = warp(factor, pitch=raised)
            self._raised[row] = np.log2(factor) if raised else 0
            equalised = self._amount * (rng.random() < self._amount * _SHARE)
            self._level[row] = _DB * equalised * equaliser(rng)

    def apply(self, batch: NDArray[np.float16]) -> Float:
        """``batch [rows, hops, COLUMNS]`` of shards with these voices."""
        out = batch.astype(np.float32)
        heard = (batch[..., :BANDS] > _LEVELS[0]) @ self._warp > 0.5  # the floor is no sound
        heard &= np.ptp(out[..., :BANDS], axis=-1, keepdims=True) > _FLAT
        for begin in (0, BANDS, *range(FEATURES, FEATURES + 3 * BANDS, BANDS)):  # see ``batches.split``
            part = out[..., begin : begin + BANDS]
            part[:] = part @ self._warp
        levels = out[..., :BANDS]
        levels += np.where(heard, self._level, 0)
        np.clip(levels, *_LEVELS, out=levels)
        period = out[..., FEATURES - 2]
        period -= self._raised
        period += period < _SHORTEST
        return out
