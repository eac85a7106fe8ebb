"""Whole recordings at any sample rate, through the same ``Enhancer`` that a call runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from percepnet.enhancer import LOUDEST, Enhancer
from percepnet.framing import HOP, SAMPLE_RATE, Float
from percepnet.resampling import checked_rate, resample

BLOCK: Final = 100 * HOP  # samples enhanced at a time, 1 s
MOST_CHANNELS: Final = 64  # as FFmpeg has it; more are samples, in an array that is turned the other way

Floating = TypeVar("Floating", bound=np.floating[Any])


def enhance(
    x: NDArray[Floating],
    sample_rate: int,
    *,
    model: str | Path | None = None,
    postfilter: bool = True,
    attenuation_limit_db: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> NDArray[Floating]:
    """``x`` without its noise: same shape, same dtype, aligned in time with the input.

    Args:
        x: samples ``[n]`` or ``[channels, n]``, float32 or float64, full scale ±1. NaN and infinities count
            as 0, beyond ±4 is clipped. Integers are refused, not guessed at: divide 16-bit samples by 32 768
            first. Every channel is enhanced by itself.
        sample_rate: 8 000 to 192 000 Hz. Rates other than 48 000 are converted there and back, so nothing
            above 24 kHz survives, and the top 5 % of a lower rate's band is rolled off.
        model: path of an ``.onnx`` network; ``None`` is the one in the package.
        postfilter: envelope post-filter on or off.
        attenuation_limit_db: the most that anything is attenuated by, 0…100 dB; ``None`` is no limit.
        progress: called with the finished share of the recording, 0…1, about once per second of audio.

    Raises:
        TypeError: ``x`` is no float array, or ``sample_rate`` no whole number.
        ValueError: a shape, rate or limit outside what is allowed; the message names value and range.

    >>> import numpy as np
    >>> from percepnet import enhance
    >>> noisy = 0.1 * np.random.default_rng(0).standard_normal((2, 44_100))
    >>> quiet = enhance(noisy, 44_100)
    >>> quiet.shape, quiet.dtype, bool(quiet.std() < noisy.std())
    ((2, 44100), dtype('float64'), True)
    """
    if not isinstance(x, np.ndarray) or x.dtype not in (np.float32, np.float64):
        kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
        raise TypeError(f"x is {kind}; allowed are numpy arrays of float32 or float64 with full scale ±1")
    if x.ndim not in (1, 2) or (x.ndim == 2 and len(x) > MOST_CHANNELS):
        raise ValueError(
            f"x has shape {x.shape}; allowed are [samples] and [channels, samples] of at most {MOST_CHANNELS} channels"
        )
    rate = checked_rate(sample_rate)

    channels = np.atleast_2d(x)
    # Before the conversion: one NaN would spread over the length of the resampler's filter.
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, too
        samples = channels.astype(np.float32)
    samples[~np.isfinite(samples)] = 0
    np.clip(samples, -LOUDEST, LOUDEST, out=samples)
    enhancer = Enhancer(
        streams=max(1, len(samples)),
        model=model,
        postfilter=postfilter,
        attenuation_limit_db=attenuation_limit_db,
    )
    if samples.size:
        samples = resample(samples, rate, SAMPLE_RATE)  # each step forgets the one before: hours are large
        samples = _run(enhancer, samples, progress)
        samples = resample(samples, SAMPLE_RATE, rate)[:, : x.shape[-1]]
    return samples.reshape(x.shape).astype(x.dtype, copy=False)


def _run(enhancer: Enhancer, samples: Float, progress: Callable[[float], None] | None) -> Float:
    """``samples [streams, n]`` at 48 kHz, enhanced in blocks and moved back by the latency."""
    streams, length = samples.shape
    latency = enhancer.latency_samples
    out = np.empty((streams, length), np.float32)
    for start in range(0, length + latency, BLOCK):
        block = samples[:, start : start + BLOCK]
        wanted = min(BLOCK, length + latency - start)  # the last block is filled up to whole hops
        padding = -(-wanted // HOP) * HOP - block.shape[1]
        enhanced = enhancer.process(np.pad(block, ((0, 0), (0, padding))))
        first = start - latency  # where this block's output belongs
        keep = enhanced[:, max(0, -first) : length - first]
        out[:, max(0, first) : max(0, first) + keep.shape[1]] = keep
        if progress:
            progress(min(1.0, (start + BLOCK) / (length + latency)))
    return out
