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
from percepnet.bands import BANDS
from percepnet.framing import BINS, HOP, LOOKAHEAD, WINDOW, Complex, Float

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

# Of the numbers that the analysis keeps of a stream: those before its energies, before its reference, and all.
SPECTRA: Final = 2 * LOOKAHEAD * BINS
REFERENCE: Final = SPECTRA + LOOKAHEAD * BANDS
STATE: Final = REFERENCE + 1 + pitch.PitchState.SIZE
_LAYOUT: Final = (
    *(HOP, BINS, LOOKAHEAD, BANDS, bands.KNOTS[-1], features.FEATURES),
    *(pitch.DECIMATION, pitch.MIN_PERIOD, pitch.MAX_PERIOD, pitch.SEGMENT, pitch.REACH, pitch.STEP),
    *(comb.SIDE_TAPS, features.SPEECH_BANDS.start, features.SPEECH_BANDS.stop, STATE),
)
_COUNT: Final = ctypes.c_int64
_ARRAY: Final = ctypes.c_void_p
_Bytes: Final = ctypes.c_char * 0


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
        library.percepnet_source_crc.restype = ctypes.c_uint32
        if library.percepnet_source_crc() != zlib.crc32((_FOLDER / "chain.c").read_bytes()):
            raise OSError("it was built from another chain.c; installing the package again builds it anew")
        layout = (ctypes.c_int32 * len(_LAYOUT)).in_dll(library, "percepnet_layout")
        if tuple(layout) != _LAYOUT:
            raise OSError(f"it has other constants than the modules of numpy: {[*layout]}, {[*_LAYOUT]}")
    except (OSError, AttributeError, ValueError) as error:
        logger.warning("%s is of no use, numpy does its work: %s", path, error)
        return None
    tables = _Tables(*map(_address, _ARRAYS.values()), *_NUMBERS.values())
    library.percepnet_set_tables(ctypes.byref(tables))
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
    address: int = array.__array_interface__["data"][0]
    return address


def _pointers(*arrays: NDArray[Any]) -> list[Any]:
    """What ctypes takes for the addresses of contiguous arrays."""
    try:
        return [_Bytes.from_buffer(array) for array in arrays]  # type: ignore[arg-type]
    except TypeError:  # one cannot be written to; asked for like this, an address takes five times as long
        return [_address(array) for array in arrays]


library: ctypes.CDLL | None = _load()
"""None: numpy does all."""


def implementation() -> str:
    """What does the signal processing now, for people."""
    return "compiled" if library else "numpy"


@contextlib.contextmanager
def disabled() -> Iterator[None]:
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
    spectra = _taken(spectra, np.complex64, *outer, BINS)
    flattened = np.empty((*outer, pitch.BINS12), np.complex64)
    energy = np.empty((*outer, BANDS), np.float32)
    _library().flatten(outer[0] * outer[1], *_pointers(spectra, flattened, energy))
    return flattened, energy


def track(frames: Float, samples: Float, states: Float) -> tuple[NDArray[np.int64], Float, Float]:
    """Pitch and comb filter; ``states [streams, STATE]`` are updated in place.

    frames: ``[streams, hops, 240]`` of the excitation; samples as in ``analysis.analyse``. Returns T and its
    correlation ``[streams, hops]``, and comb-filtered frames ``[streams, hops, WINDOW]``, windowed for their transform.
    """
    streams, hops, _ = frames.shape
    least = comb.HISTORY + WINDOW + (LOOKAHEAD + hops - 1) * HOP
    frames = _taken(frames, np.float32, streams, hops, 2 * (pitch.BINS12 - 1))
    samples = _taken(samples, np.float32, streams, max(least, samples.shape[1]))
    period = np.empty((streams, hops), np.int64)
    peak = np.empty((streams, hops), np.float32)
    combed = np.empty((streams, hops, WINDOW), np.float32)
    given = _pointers(_states(states, streams), frames, samples)
    _library().track(streams, hops, *given, samples.shape[1], *_pointers(period, peak, combed))
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
    measured between them, and the features, each ``[streams, hops, …]``; ``states`` are updated in place."""
    outer = newest.shape[:2]
    given = (
        _states(states, outer[0]),
        _taken(newest, np.complex64, *outer, BINS),
        _taken(newest_energy, np.float32, *outer, BANDS),
        _taken(combed, np.complex64, *outer, BINS),
        _taken(period, np.int64, *outer),
        _taken(peak, np.float32, *outer),
    )
    spectra = np.empty((*outer, BINS), np.complex64)
    energy = np.empty((*outer, BANDS), np.float32)
    comb_energy, measured = np.empty_like(energy), np.empty_like(energy)
    inputs = np.empty((*outer, features.FEATURES), np.float32)
    _library().measure(*outer, *_pointers(*given, spectra, energy, comb_energy, measured, inputs))
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
    outer = spectra.shape[:2]
    given = (
        *(_taken(values, np.complex64, *outer, BINS) for values in (spectra, combed)),
        *(_taken(values, np.float32, *outer, BANDS) for values in (energy, comb_energy, gain, strength)),
        _taken(post, np.float32, *outer),
    )
    enhanced = np.empty((*outer, BINS), np.complex64)
    _library().enhance(outer[0] * outer[1], *_pointers(*given, enhanced))
    return enhanced


def _taken(array: NDArray[Any], dtype: type[np.generic], *shape: int) -> NDArray[Any]:
    """``array`` as C can read it; ValueError if it cannot be broadcast to that shape."""
    if array.shape != shape:
        array = np.broadcast_to(array, shape)
    return np.ascontiguousarray(array, dtype)


def _states(states: Float, streams: int) -> Float:
    """The same, which C may write to."""
    if states.shape != (streams, STATE) or states.dtype != np.float32 or not states.flags.carray:
        raise ValueError(
            f"states are {states.dtype} {states.shape}; allowed: float32 {(streams, STATE)} of one piece"
        )
    return states


def _library() -> ctypes.CDLL:
    assert library is not None
    return library
