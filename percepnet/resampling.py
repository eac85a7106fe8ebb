"""Sample-rate conversion of whole recordings, without delay, and of streams, by FFmpeg's swresample through PyAV.

``av.AudioResampler`` starts a thread for each core, and its default of 32 taps loses 1 dB at 90 % of the band and
lets images through at −27 dB. So the ``aresample`` filter is set up here with 128 taps: flat to 0.05 dB up to 95 % of
the lower rate's band, with images below −100 dB there.
"""

import contextlib
import math
from collections.abc import Mapping
from fractions import Fraction
from operator import index
from typing import Final

import av
import av.filter
import numpy as np

from percepnet.framing import Float

LOWEST_RATE: Final = 8_000  # Hz
HIGHEST_RATE: Final = 192_000  # Hz
BLOCK: Final = 1 << 16  # samples pushed into the filter graph at a time
TAPS: Final = 128  # of the lower rate
# linear: rates such as 44 101 Hz have many phases
FILTER: Final = {"filter_size": str(TAPS), "cutoff": "0.985", "linear_interp": "1"}


def checked_rate(sample_rate: int) -> int:
    """``sample_rate`` if it is a whole number of Hz within 8 000…192 000, else TypeError or ValueError."""
    try:
        rate = index(sample_rate)
    except TypeError:
        kind = type(sample_rate).__name__
        raise TypeError(f"sample_rate is {sample_rate!r} ({kind}); allowed are whole numbers of Hz") from None
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"sample_rate is {rate} Hz; allowed are {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    return rate


def resample(samples: Float, source_rate: int, target_rate: int) -> Float:
    """``samples [channels, n]`` at ``source_rate`` as ``[channels, ⌈n · target_rate / source_rate⌉]``.

    Sample 0 stays at time 0: the filter's delay is compensated. Equal rates return ``samples`` itself.
    Rates: 8 000…192 000 Hz.
    """
    resampler = Resampler(len(samples), source_rate, target_rate)
    if source_rate == target_rate:
        return samples
    starts = range(0, samples.shape[-1], BLOCK)
    parts = [resampler.push(samples[:, start : start + BLOCK]) for start in starts]
    return np.concatenate([*parts, resampler.finish()], axis=1)


class Filters:
    """A chain of FFmpeg's audio filters, on the thread of the caller.

    ``source`` are the options of its ``abuffer``, ``filters`` names and options of what follows.
    """

    def __init__(self, source: Mapping[str, str], *filters: tuple[str, Mapping[str, str]]) -> None:
        graph = av.filter.Graph()
        graph.threads = 1  # else FFmpeg starts one for each core, for work that is done before they are awake
        self._source = graph.add("abuffer", **source)
        self._sink = graph.add("abuffersink")
        between = [graph.add(name, **options) for name, options in filters]
        graph.link_nodes(self._source, *between, self._sink).configure()
        self._graph = graph

    def push(self, frame: av.AudioFrame) -> list[av.AudioFrame]:
        """The next frame in; those that are ready out."""
        self._source.push(frame)
        ready = []
        with contextlib.suppress(av.error.BlockingIOError):
            while True:
                out = self._sink.pull()
                assert isinstance(out, av.AudioFrame)
                ready.append(out)
        return ready


class Converter:
    """From one rate to another as the samples come. The same samples give the same result, however they are cut.

    Sample 0 of the result is at the time of sample 0 of the input. It is known half a filter later, ``TAPS / 2``
    samples of the lower rate; the first result comes after a whole filter.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        rate = str(source_rate)
        source = {
            "sample_rate": rate,
            "sample_fmt": "fltp",
            "channel_layout": "mono",
            "time_base": f"1/{rate}",
        }
        self._filters = Filters(source, ("aresample", {"sample_rate": str(target_rate), **FILTER}))
        self._rate = source_rate
        self._pushed = 0

    def push(self, samples: Float) -> Float:
        """The next samples ``[n]``; returns those of the result that are known now and were not before."""
        parts: list[Float] = []
        if len(samples):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples)[np.newaxis], format="fltp", layout="mono"
            )
            frame.sample_rate = self._rate
            frame.pts = self._pushed
            self._pushed += len(samples)
            parts = [out.to_ndarray()[0] for out in self._filters.push(frame)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class Resampler:
    """Recordings ``[channels, n]`` as they come, in time with the input: sample 0 stays at time 0."""

    def __init__(self, channels: int, source_rate: int, target_rate: int) -> None:
        self._source, self._target = checked_rate(source_rate), checked_rate(target_rate)
        self._channels = channels
        self._converters: list[Converter] = []  # none where there is nothing to convert
        if self._source != self._target:
            self._converters = [Converter(self._source, self._target) for _ in range(channels)]
        self._pushed = self._given = 0  # samples

    def push(self, samples: Float) -> Float:
        """The next samples; returns those of the result that are known now and were not before."""
        if self._source == self._target:
            return samples
        self._pushed += samples.shape[1]
        found = self._convert(samples.astype(np.float32, copy=False))
        self._given += found.shape[1]
        return found

    def finish(self) -> Float:
        """The rest; of n samples there are ⌈n · target / source⌉ in all."""
        left = -(-self._pushed * self._target // self._source) - self._given
        if not left:
            return np.zeros((self._channels, 0), np.float32)
        # silence, or the end would not be known
        taps = TAPS * max(1, self._source // self._target + 1)
        rest = self._convert(np.zeros((self._channels, 2 * taps), np.float32))[:, :left]
        return np.pad(rest, ((0, 0), (0, left - rest.shape[1])))  # zeros where the filter leaves it short

    def _convert(self, samples: Float) -> Float:
        rows = [converter.push(row) for converter, row in zip(self._converters, samples, strict=True)]
        return np.stack(rows) if rows else samples[:, :0]


class StreamingResampler:
    """A :class:`Converter` that is late by a constant ``delay`` and has answers from the first sample on.

    After n samples there are at least ⌊n · target / source⌋ results.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        self._converter = Converter(source_rate, target_rate)
        # More than a whole filter of silence first, in steps that last a whole number of samples of the result, too.
        step = source_rate // math.gcd(source_rate, target_rate)
        taps = TAPS * max(1, source_rate // target_rate + 1)
        silence = (taps // step + 1) * step
        known = len(self._converter.push(np.zeros(silence, np.float32)))
        self.delay = Fraction(silence, source_rate) - Fraction(known, target_rate)  # s

    def push(self, samples: Float) -> Float:
        """The next samples ``[n]``; returns what is known now."""
        return self._converter.push(samples)
