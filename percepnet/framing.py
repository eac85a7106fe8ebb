"""Frames, windows and transforms of ``[streams, hops, …]`` arrays.

Source: Valin et al., "A Perceptually-Motivated Approach for Low-Complexity, Real-Time Enhancement of
Fullband Speech", Interspeech 2020 ("P20"), section 2.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = NDArray[np.float32]
Complex: TypeAlias = NDArray[np.complex64]
Pcm: TypeAlias = NDArray[np.int16]

SAMPLE_RATE: Final = 48_000  # Hz
HOP: Final = 480  # samples, 10 ms
WINDOW: Final = 960  # samples, 20 ms
BINS: Final = WINDOW // 2 + 1  # 481 bins of 50 Hz
BIN_HZ: Final = SAMPLE_RATE / WINDOW
LOOKAHEAD: Final = 2  # hops that the network and the comb filter see ahead of the frame they decide
LATENCY: Final = HOP + LOOKAHEAD * HOP  # samples: 10 ms overlap + 20 ms look-ahead = 30 ms
FULL_SCALE: Final = 32_768  # of signed 16-bit samples
SEAM: Final = 240  # samples, 5 ms, over which a step between pieces of audio is spread


def vorbis_window(length: int) -> Float:
    """Power-complementary window ``[length]``: w²(n) + w²(n + length/2) = 1."""
    phase = np.pi * (np.arange(length) + 0.5) / length
    return np.sin(np.pi / 2 * np.sin(phase) ** 2).astype(np.float32)


ANALYSIS: Final[Float] = vorbis_window(WINDOW)  # also the synthesis window
ANALYSIS.setflags(write=False)
SCALED: Final[Float] = ANALYSIS * np.float32(WINDOW)  # undoes the scale of norm="forward"


def windows(x: Float, count: int, size: int, *, step: int, start: int = 0) -> Float:
    """Overlapping windows ``[…, count, size]`` of ``x […, n]`` as a view, window i from ``start + i · step`` on.

    What ``sliding_window_view`` does in 20 µs, which is as long as a transform takes.
    """
    x = np.ascontiguousarray(x)
    *outer, item = x.strides
    return np.ndarray((*x.shape[:-1], count, size), np.float32, x, start * item, (*outer, step * item, item))


def frames(samples: Float, hops: int, *, delay: int = 0) -> Float:
    """The last ``hops`` frames of ``samples [streams, n]``, shifted ``delay`` hops into the past.

    Returns a view ``[streams, hops, WINDOW]``, not for writing; frame i ends ``(hops − 1 − i + delay)`` hops before
    the end of ``samples``.
    """
    end = samples.shape[1] - delay * HOP
    return windows(samples, hops, WINDOW, step=HOP, start=end - (hops - 1) * HOP - WINDOW)


def spectrum(frame: Float) -> Complex:
    """Windowed transform of ``[…, WINDOW]`` samples to ``[…, BINS]``."""
    return transform(frame * SCALED)


def transform(windowed: Float) -> Complex:
    """Transform of frames ``[…, WINDOW]`` that were multiplied by ``SCALED``.

    ``norm="forward"``, for without it numpy computes in double and rounds: 1.5 times slower.
    """
    spectra: Complex = np.fft.rfft(windowed, axis=-1, norm="forward")  # type: ignore[assignment]
    return spectra


def synthesis(spectra: Complex) -> Float:
    """Windowed inverse transform of ``[…, BINS]`` to ``[…, WINDOW]`` samples, ready to overlap-add."""
    frame: Float = np.fft.irfft(spectra, WINDOW, axis=-1)  # type: ignore[assignment]  # complex64 gives float32
    frame *= ANALYSIS
    return frame


def overlap_add(frame: Float, tail: Float) -> Float:
    """Overlap-add frames ``[streams, hops, 2 · n]`` to samples ``[streams, hops · n]``.

    ``tail [streams, n]`` is the second half of the frame before the first; it is updated in place.
    """
    half = tail.shape[1]
    out = frame[:, :, :half].copy()
    out[:, 0] += tail
    out[:, 1:] += frame[:, :-1, half:]
    tail[:] = frame[:, -1, half:]
    return out.reshape(len(out), out.shape[1] * half)


def continued(samples: Float, before: float, last: float) -> Float:
    """``samples [n]`` without a click, after ``last`` of other audio in place of ``before``, the sample before them."""
    joined = samples.copy()
    joined[:SEAM] += (last - before) * np.linspace(1, 0, SEAM, dtype=np.float32)
    return joined


def from_pcm(pcm: Pcm) -> Float:
    """Signed 16-bit samples, any shape, as float with full scale ±1."""
    return pcm * np.float32(1 / FULL_SCALE)


def to_pcm(samples: Float) -> Pcm:
    """Samples with full scale ±1, any shape, as signed 16-bit; what is beyond is clipped."""
    return (samples * FULL_SCALE).round().clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
