"""Sample-rate conversion of whole recordings, without delay, by FFmpeg's swresample through PyAV.

``av.AudioResampler`` has no access to the filter's settings, and its default of 32 taps loses 1 dB at 90 % of
the band and lets images through at −27 dB. So the ``aresample`` filter is set up here with 128 taps: flat to
0.05 dB up to 95 % of the lower rate's band, with images below −100 dB there.
"""

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
FILTER: Final = (
    f"filter_size={TAPS}:cutoff=0.985:linear_interp=1"  # linear: rates such as 44 101 Hz have many phases
)


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
    source_rate, target_rate = checked_rate(source_rate), checked_rate(target_rate)
    if source_rate == target_rate:
        return samples
    length = -(-samples.shape[-1] * target_rate // source_rate)
    out = np.zeros((len(samples), length), np.float32)
    if length:
        for channel, converted in zip(samples, out, strict=True):
            _convert(np.ascontiguousarray(channel, np.float32), source_rate, target_rate, converted)
    return out


def _convert(samples: Float, source_rate: int, target_rate: int, out: Float) -> None:
    """Fills ``out [m]`` with ``samples [n]`` at the other rate; what the filter leaves short stays zero."""
    graph = av.filter.Graph()
    source = graph.add(
        "abuffer",
        sample_rate=str(source_rate),
        sample_fmt="fltp",
        channel_layout="mono",
        time_base=f"1/{source_rate}",
    )
    sink = graph.add("abuffersink")
    graph.link_nodes(source, graph.add("aresample", f"{target_rate}:{FILTER}"), sink).configure()

    filled = 0

    def pull() -> None:
        nonlocal filled
        while True:
            try:
                frame = sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)
            part = frame.to_ndarray()[0][: len(out) - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)

    # swresample answers only after more than half a filter of samples, and guesses those after the end.
    taps = TAPS * max(1, source_rate // target_rate + 1)
    samples = np.concatenate([samples, np.zeros(2 * taps, np.float32)])
    for start in range(0, len(samples), BLOCK):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + BLOCK], format="fltp", layout="mono")
        frame.sample_rate = source_rate
        frame.pts = start
        source.push(frame)
        pull()
    source.push(None)
    pull()
