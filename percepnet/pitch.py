"""One pitch period per hop: normalised correlation of a spectrally flattened signal, then a Viterbi path.

Source: P20 section 3.1 (period range, Viterbi tracking); the correlation score and costs follow LPCNet's tracker.
The spectrum is flattened by its own smooth envelope, brought to 12 kHz by an inverse transform of its lowest bins and
overlap-added: the excitation e(n). Formants pull the correlation less, and decimation costs nothing. Flattening fully
would raise the bands where noise hides the voice: in mixtures at 0–10 dB an exponent of 0.3 found the best periods.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from percepnet.framing import HOP, Complex, Float, overlap_add, vorbis_window, windows

MIN_PERIOD: Final = 96  # samples at 48 kHz: 500 Hz
MAX_PERIOD: Final = 768  # 62.5 Hz

DECIMATION: Final = 4  # to 12 kHz
_HOP: Final = HOP // DECIMATION
BINS12: Final = _HOP + 1  # bins of 50 Hz up to 6 kHz
_MIN_LAG: Final = MIN_PERIOD // DECIMATION
_MAX_LAG: Final = MAX_PERIOD // DECIMATION
_LAGS: Final = _MAX_LAG - _MIN_LAG + 1  # 169
SEGMENT: Final = 240  # samples of 12 kHz that are correlated: 20 ms
_KEPT: Final = SEGMENT + _MAX_LAG - _HOP  # of the excitation, for the next hop

STEP: Final = 4  # lags that a path may move in one hop at the quadratic cost
STEP_COST: Final = 0.02
JUMP_COST: Final = 6.0
ENERGY_RATE: Final = 0.01  # per hop, of the running mean energy
FLATTENING: Final = np.float32(0.3)  # 0: the signal as it is, 1: a flat spectrum

WINDOW12: Final[Float] = vorbis_window(2 * _HOP)


def _smooth(power: Float) -> Float:
    """``power [streams, hops, BINS12]`` averaged over ± 500 Hz: so wide that no single harmonic is flattened away."""
    padded = np.zeros((*power.shape[:2], BINS12 + 2 * REACH), np.float32)
    padded[..., REACH:-REACH] = power
    spans = windows(padded, BINS12, len(TRIANGLE), step=1)
    return np.einsum("shbk,k->shb", spans, TRIANGLE) / COVERED


def _emphasis() -> Float:
    """Weight of each bin in the excitation: nothing up to 100 Hz (rumble), falling from 2 kHz to nothing at 6 kHz."""
    hz = np.arange(BINS12) * 50.0
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip((hz - 2000) / 4000, 0, 1))
    return (fall * (hz > 100) / DECIMATION).astype(np.float32)


def _fractions() -> Float:
    """``[9, 2 · 2 + 1]``: windowed-sinc weights that interpolate nine lags at −½, −¼, 0, ¼ and ½ lag."""
    distance = np.arange(-4, 5)[:, None] - np.arange(-2, 3) / DECIMATION
    return (np.sinc(distance) * np.cos(np.pi * distance / 10) ** 2).astype(np.float32)


REACH = 9  # bins on each side that the triangle of ± 500 Hz covers
TRIANGLE = (1 - np.abs(np.arange(-REACH, REACH + 1)) / (REACH + 1)).astype(np.float32)
COVERED = np.convolve(np.ones(BINS12), TRIANGLE, "same").astype(np.float32)  # less at the edges
EMPHASIS, FRACTIONS = _emphasis(), _fractions()
_STEP_COSTS = (STEP_COST * np.arange(-STEP, STEP + 1) ** 2).astype(np.float32)[:, None, None]
_HALVED = slice(2 * _MIN_LAG - _MIN_LAG, None)  # indices of the lags whose half is a lag, too
_HALF_LAG = np.arange(2 * _MIN_LAG, _MAX_LAG + 1) // 2 - _MIN_LAG  # of each of them: the index of T/2
_NEAR = np.clip(np.arange(_LAGS)[:, None] + np.arange(-4, 5), 0, _LAGS - 1)  # [lags, 9]


@dataclass(slots=True)
class PitchState:
    """What the tracker keeps of each stream."""

    tail: Float  # [streams, 120] overlap of the excitation
    excitation: Float  # [streams, 432 − 120]
    correlation: Float  # [streams, lags] c(T) of the newest hop
    score: Float  # [streams, lags] of the best path that ends in each lag
    energy: Float  # [streams] running mean

    SIZE: ClassVar = _HOP + _KEPT + 2 * _LAGS + 1
    _ENDS: ClassVar = (_HOP, _HOP + _KEPT, _HOP + _KEPT + _LAGS, SIZE - 1)

    @classmethod
    def of(cls, whole: Float) -> Self:
        """Views of ``whole [streams, SIZE]``, in that order."""
        tail, excitation, correlation, score = cls._ENDS
        return cls(
            whole[:, :tail],
            whole[:, tail:excitation],
            whole[:, excitation:correlation],
            whole[:, correlation:score],
            whole[:, score],
        )

    @classmethod
    def new(cls, streams: int) -> Self:
        return cls.of(np.zeros((streams, cls.SIZE), np.float32))


def track(spectra: Complex, power: Float, state: PitchState) -> tuple[NDArray[np.int64], Float]:
    """Periods of the frames ``LOOKAHEAD`` hops before those given.

    spectra: ``[streams, hops, BINS]`` of the newest frames, power: |Y|² of them; ``state`` is updated in place
    Returns T ``[streams, hops]`` in samples of 48 kHz, and its normalised correlation in [−1, 1].
    """
    streams, hops, _ = spectra.shape
    excited = _excite(spectra, power, state)
    segments = windows(excited, hops, SEGMENT + _MAX_LAG, step=_HOP)  # [streams, hops, 432]
    state.excitation[:] = excited[:, hops * _HOP :]
    squares = np.square(segments)
    correlation = _correlate(segments, squares)
    weight = _energy_weight(np.add.reduce(squares[..., _MAX_LAG:], -1), state)
    path = _viterbi(_discounted(correlation) * weight[..., None], state)  # lag index of the hop before each

    correlation = np.concatenate([state.correlation[:, None], correlation], axis=1)
    state.correlation[:] = correlation[:, -1]
    # One hop of look-ahead in the path and one in the excitation's overlap: the hop before is the frame wanted.
    # A sum, not a matrix product: BLAS would add up in an order that depends on how many hops there are.
    nine = correlation[np.arange(streams)[:, None, None], np.arange(hops)[:, None], _NEAR[path]]
    fine = np.add.reduce(nine[..., None] * FRACTIONS, 2)  # [streams, hops, 5]
    period = (path + _MIN_LAG) * DECIMATION + fine.argmax(-1) - 2
    period = np.minimum(np.maximum(period, MIN_PERIOD), MAX_PERIOD)
    return period, np.minimum(np.maximum(np.maximum.reduce(fine, -1), -1), 1)


def _excite(spectra: Complex, power: Float, state: PitchState) -> Float:
    """Flattened signal at 12 kHz, ``[streams, 312 + hops · 120]``, complete up to one hop before the newest."""
    low = spectra[..., :BINS12]
    envelope = _smooth(power[..., :BINS12]) + np.float32(1e-9)
    # divided out, so that e does not depend on it
    level = np.add.reduce(envelope, -1, keepdims=True) / np.float32(BINS12)
    scale = EMPHASIS * (envelope / level) ** (-FLATTENING / 2) / np.sqrt(level)
    frame = excitation(low * scale) * WINDOW12
    return np.concatenate([state.excitation, overlap_add(frame, state.tail)], axis=1)


def excitation(flattened: Complex) -> Float:
    """Frames ``[…, 240]`` of the excitation, not windowed, of ``[…, BINS12]``."""
    frames: Float = np.fft.irfft(flattened, 2 * _HOP, axis=-1)  # type: ignore[assignment]
    return frames


def _correlate(segments: Float, squares: Float) -> Float:
    """c(T) = 2⟨e, e_T⟩ / (ε + ‖e‖² + ‖e_T‖²) for all lags, ``[streams, hops, lags]``; squares: e²."""
    streams, hops, size = segments.shape
    both = np.zeros((streams, hops, 2, size), np.float32)
    both[:, :, 0] = segments
    both[:, :, 1, :SEGMENT] = segments[..., _MAX_LAG:]
    transform = np.fft.rfft(both, norm="forward")  # see framing.spectrum
    product = np.conj(transform[:, :, 1])
    product *= transform[:, :, 0]
    cross: Float = np.fft.irfft(product, size)[..., _LAGS - 1 :: -1]  # type: ignore[assignment]  # shift 192 − T
    total = np.zeros((streams, hops, size + 1), np.float32)
    np.add.accumulate(squares, axis=-1, out=total[..., 1:])
    energy = total[..., SEGMENT:] - total[..., :-SEGMENT]  # [.., 193] of each shift
    both_energies = np.float32(1e-3) + energy[..., -1:] + energy[..., _LAGS - 1 :: -1]
    cross *= 2 * size * size
    cross /= both_energies
    return cross


def _discounted(correlation: Float) -> Float:
    """``correlation`` with the lags lowered that are about as good at half the lag: they are multiples of it."""
    near = np.maximum(correlation[..., :-2], correlation[..., 1:-1])
    np.maximum(near, correlation[..., 2:], out=near)  # the best of each lag and the two after it
    out = correlation.copy()
    multiple = correlation[..., _HALVED] < 1.1 * near.take(_HALF_LAG, -1)
    np.multiply(out[..., _HALVED], np.float32(0.8), out=out[..., _HALVED], where=multiple)
    return out


def _energy_weight(energy: Float, state: PitchState) -> Float:
    """``energy [streams, hops]`` over its running mean."""
    weight = np.empty_like(energy)
    for hop in range(energy.shape[1]):
        now = energy[:, hop]
        state.energy += ENERGY_RATE * (now - state.energy)
        np.minimum(now / (state.energy + np.float32(1e-6)), 2, out=weight[:, hop])
    return weight


def _viterbi(gain: Float, state: PitchState) -> NDArray[np.int64]:
    """Extend the paths by ``gain [streams, hops, lags]``; the lag that the best path had one hop before each.

    Moves of j lags cost 0.02·j² up to ± 4, any jump 6. The best score is 0 before and after.
    """
    streams, hops, _ = gain.shape
    path = np.empty((streams, hops), np.int64)
    rows = np.arange(streams)
    score = np.empty((streams, _LAGS + 2 * STEP), np.float32)
    score[:, :STEP] = score[:, -STEP:] = -np.inf
    score[:, STEP:-STEP] = state.score
    shifts = windows(score, 2 * STEP + 1, _LAGS, step=1).swapaxes(0, 1)  # [9, streams, lags]
    origin = state.score.argmax(1)
    for hop in range(hops):
        moves = shifts - _STEP_COSTS
        now = np.maximum.reduce(moves, 0)
        np.maximum(now, -JUMP_COST, out=now)
        now += gain[:, hop]
        end = now.argmax(1)
        ways = moves[:, rows, end]  # [9, streams] to the best end
        stays = np.maximum.reduce(ways, 0) >= -JUMP_COST
        path[:, hop] = np.where(stays, end + (ways.argmax(0) - STEP), origin)
        np.subtract(now, np.maximum.reduce(now, 1, keepdims=True), out=score[:, STEP:-STEP])
        origin = end
    state.score[:] = score[:, STEP:-STEP]
    return path
