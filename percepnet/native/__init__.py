"""The signal processing of ``chain.c``, where a C compiler was there when the package was installed.

It gives what the modules of numpy give, within rounding, and takes a fraction of their time for a few calls.
"""

import contextlib
import ctypes
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from percepnet import bands, coherence, comb, features, framing, pitch, postfilter
from percepnet.framing import BINS, WINDOW, Complex, Float

logger = logging.getLogger(__name__)

_FOLDER: Final = Path(__file__).parent
_ARRAYS: Final[dict[str, NDArray[Any]]] = {
    "knots": np.array(bands.KNOTS, np.int32),
    "upper": bands.UPPER,
    "widths": bands.WIDTHS,
    "emphasis": pitch.EMPHASIS,
    "triangle": pitch.TRIANGLE,
    "covered": pitch.COVERED,
    "window12": pitch.WINDOW12,
    "fractions": pitch.FRACTIONS,
    "window": framing.SCALED,
    "weights": comb.WEIGHTS,
    "quadratic": coherence.QUADRATIC,
    "octave": features.OCTAVE,
}
_NUMBERS: Final = {
    "flattening": float(pitch.FLATTENING),
    "step_cost": pitch.STEP_COST,
    "jump_cost": pitch.JUMP_COST,
    "energy_rate": pitch.ENERGY_RATE,
    "floor": float(features.FLOOR),
    "attack": float(features.ATTACK),
    "release": float(features.RELEASE),
    "behind": float(features.BEHIND),
    "beta": float(postfilter.BETA),
}


_COUNT: Final = ctypes.c_int64
_ARRAY: Final = ctypes.c_void_p


class _Tables(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        *((name, ctypes.c_float) for name in _NUMBERS),
    )


def _load() -> ctypes.CDLL | None:
    path = _FOLDER / "chain.so"
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.percepnet_source.restype = ctypes.c_uint32
        if library.percepnet_source() != zlib.crc32((_FOLDER / "chain.c").read_bytes()):
            raise OSError("it was built from another chain.c; installing the package again builds it anew")
    except OSError as error:
        logger.warning("%s is of no use, numpy does its work: %s", path, error)
        return None
    tables = _Tables(*map(_address, _ARRAYS.values()), *_NUMBERS.values())
    library.percepnet_prepare(ctypes.byref(tables))
    _declare(library, "flatten", [_COUNT] + [_ARRAY] * 3)
    _declare(library, "enhance", [_COUNT] + [_ARRAY] * 8)
    _declare(library, "track", [_COUNT] * 2 + [_ARRAY] * 3 + [_COUNT] + [_ARRAY] * 3)
    _declare(library, "measure", [_COUNT] * 2 + [_ARRAY] * 11)
    return library


def _declare(library: ctypes.CDLL, name: str, arguments: list[Any]) -> None:
    function = library[f"percepnet_{name}"]
    function.restype, function.argtypes = None, arguments
    setattr(library, name, function)


def _address(array: NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of strides {array.strides} is not contiguous")
    address: int = array.__array_interface__["data"][0]
    return address


def _addresses(*arrays: NDArray[Any]) -> list[int]:
    return [_address(array) for array in arrays]


library: ctypes.CDLL | None = _load()
"""None: numpy does all."""


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Numpy does all meanwhile, in this process."""
    global library
    kept, library = library, None
    try:
        yield
    finally:
        library = kept


def flatten(spectra: Complex) -> tuple[Complex, Float]:
    """Of spectra ``[streams, hops, BINS]``: the flattened ones of the excitation, not yet transformed back, at 12 kHz
    ``[streams, hops, 121]``, and band energies ``[streams, hops, BANDS]``."""
    outer = spectra.shape[:2]
    flattened = np.empty((*outer, pitch.BINS12), np.complex64)
    energy = np.empty((*outer, bands.BANDS), np.float32)
    _library().flatten(outer[0] * outer[1], *_addresses(spectra, flattened, energy))
    return flattened, energy


def track(frames: Float, samples: Float, states: Float) -> tuple[NDArray[np.int64], Float, Float]:
    """Pitch and comb filter; the ``states`` are updated in place.

    frames: ``[streams, hops, 240]`` of the excitation; samples as in ``analysis.analyse``. Returns T and its
    correlation ``[streams, hops]``, and comb-filtered frames ``[streams, hops, WINDOW]``, windowed for their transform.
    """
    streams, hops, _ = frames.shape
    period = np.empty((streams, hops), np.int64)
    peak = np.empty((streams, hops), np.float32)
    combed = np.empty((streams, hops, WINDOW), np.float32)
    _library().track(
        streams,
        hops,
        *_addresses(states, frames, samples),
        samples.shape[1],
        *_addresses(period, peak, combed),
    )
    return period, peak, combed


def measure(
    newest: Complex,
    newest_energy: Float,
    combed: Complex,
    period: NDArray[np.int64],
    peak: Float,
    states: Float,
) -> tuple[Complex, Float, Float, Float, Float]:
    """Spectra and band energies of ``LOOKAHEAD`` hops before, energies of their comb-filtered twins, what coherence is
    measured between them, and the features, each ``[streams, hops, …]``."""
    outer = period.shape
    spectra = np.empty((*outer, BINS), np.complex64)
    energy, comb_energy, measured = np.empty((3, *outer, bands.BANDS), np.float32)
    inputs = np.empty((*outer, features.FEATURES), np.float32)
    given = (states, newest, newest_energy, combed, period, peak)
    _library().measure(*outer, *_addresses(*given, spectra, energy, comb_energy, measured, inputs))
    return spectra, energy, comb_energy, measured, inputs


def enhance(
    spectra: Complex,
    combed: Complex,
    energy: Float,
    comb_energy: Float,
    gain: Float,
    strength: Float,
    post: Float,
) -> Complex:
    """``enhance_spectra`` of gains that go through the share ``post [streams, hops]`` of the post-filter before."""
    enhanced = np.empty_like(spectra)
    decided = (np.ascontiguousarray(values, np.float32) for values in (gain, strength, post))
    given = (spectra, combed, energy, comb_energy, *decided)
    _library().enhance(post.size, *_addresses(*given, enhanced))
    return enhanced


def _library() -> ctypes.CDLL:
    assert library is not None
    return library
