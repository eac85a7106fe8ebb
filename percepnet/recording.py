"""Whole recordings at any sample rate, through the same ``Enhancer`` that a call runs."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from percepnet.enhancer import Enhancer, bounded
from percepnet.framing import HOP, SAMPLE_RATE, Float
from percepnet.resampling import Resampler, checked_rate

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
    enhancer = Enhancer(
        streams=max(1, len(channels)),
        model=model,
        postfilter=postfilter,
        attenuation_limit_db=attenuation_limit_db,
    )
    out, filled = np.empty_like(channels), 0
    starts = range(0, x.shape[-1] if x.size else 0, BLOCK)
    blocks = (channels[:, start : start + BLOCK] for start in starts)
    for part in enhance_blocks(blocks, rate, enhancer) if x.size else ():
        out[:, filled : filled + part.shape[1]] = part
        filled += part.shape[1]
        if progress:
            progress(filled / x.shape[-1])
    return out.reshape(x.shape)


def enhance_blocks(
    blocks: Iterable[NDArray[Floating]], sample_rate: int, enhancer: Enhancer
) -> Iterator[Float]:
    """What :func:`enhance` makes of a recording, of which never more than some seconds are in memory.

    ``blocks`` are the recording, ``[enhancer.streams, n]`` with any n; what comes out are blocks of other lengths that
    have as many samples in all, aligned in time with the input. ``enhancer`` has heard nothing yet.
    """
    up = Resampler(enhancer.streams, sample_rate, SAMPLE_RATE)
    down = Resampler(enhancer.streams, SAMPLE_RATE, sample_rate)
    taken = given = 0

    def wide() -> Iterator[Float]:
        nonlocal taken
        for block in blocks:
            taken += block.shape[1]
            yield up.push(_sound(block))
        yield up.finish()

    for part in _aligned(wide(), enhancer):
        known = down.push(part)
        given += known.shape[1]
        yield known
    yield down.finish()[:, : taken - given]


def _sound(block: NDArray[Floating]) -> Float:
    """As the enhancer hears it. Before the conversion: one NaN would spread over the length of its filter."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, too
        return bounded(block.astype(np.float32))


def _aligned(blocks: Iterable[Float], enhancer: Enhancer) -> Iterator[Float]:
    """``blocks`` at 48 kHz, enhanced and moved back by the latency."""
    waiting = np.zeros((enhancer.streams, 0), np.float32)
    length, position = 0, -enhancer.latency_samples  # of the input so far; of what is computed next
    for block in chain(blocks, [None]):
        if block is None:  # the end: what is left, up to whole hops
            block = np.zeros((enhancer.streams, enhancer.latency_samples + -length % HOP), np.float32)
            ready = waiting.shape[1] + block.shape[1]
        else:
            length += block.shape[1]
            ready = (waiting.shape[1] + block.shape[1]) // BLOCK * BLOCK
        waiting = np.concatenate([waiting, block], axis=1)
        for start in range(0, ready, BLOCK):
            enhanced = enhancer.process(waiting[:, start : min(start + BLOCK, ready)])
            yield enhanced[:, max(0, -position) : max(0, length - position)]
            position += enhanced.shape[1]
        waiting = waiting[:, ready:]
