"""Arrays to audio files, through FFmpeg's libraries in PyAV."""

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from percepnet.cli.audio_files import naming, no_places, url, usual_layout
from percepnet.framing import Float
from percepnet.resampling import Resampler

BLOCK: Final = 1 << 15  # samples encoded at a time
LARGE: Final = (1 << 32) - (1 << 20)  # bytes of audio; with a header and tags they fit into 32 bits


@dataclass(frozen=True)
class FileFormat:
    """How files of a suffix are written."""

    container: str  # FFmpeg's muxer
    codecs: Mapping[int, str]  # by bits per sample; one entry under 0 where the codec has none to choose
    bit_rate: int | None = None  # bit/s and channel
    most_channels: int = 8
    may_be_empty: bool = True  # such a file can be opened again
    # The muxer's options for what may become larger than LARGE, None where it holds no more
    large: Mapping[str, str] | None = field(default_factory=dict)


FORMATS: Final[Mapping[str, FileFormat]] = MappingProxyType(
    {
        ".wav": FileFormat(
            "wav",
            {16: "pcm_s16le", 24: "pcm_s24le", 32: "pcm_f32le"},
            most_channels=64,
            large=MappingProxyType({"rf64": "auto"}),
        ),
        ".flac": FileFormat("flac", {16: "flac", 24: "flac"}),
        ".aiff": FileFormat("aiff", {16: "pcm_s16be", 24: "pcm_s24be"}, most_channels=7, large=None),
        ".opus": FileFormat("opus", {0: "libopus"}, 64_000, may_be_empty=False),
        ".ogg": FileFormat("ogg", {0: "libopus"}, 64_000, may_be_empty=False),
        ".mp3": FileFormat("mp3", {0: "libmp3lame"}, 96_000, most_channels=2, may_be_empty=False),
        ".m4a": FileFormat("ipod", {0: "aac"}, 96_000, may_be_empty=False),
    }
)
_OF_THE_FILE: Final = (
    "encoder",
    "handler_name",
    "vendor_id",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "duration",
)
SAMPLE_FORMATS: Final = MappingProxyType({0: "fltp", 16: "s16", 24: "s32", 32: "flt"})
# RFC 7845, 5.1.1.2; no others
OPUS_LAYOUTS: Final = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
_OPUS_PERMUTED: Final = ("5.0", "6.1")  # by FFmpeg, unless it is told to keep to RFC 7845
# Of channels without places, where FFmpeg's layout for so many has one for low frequencies only
_AAC_WITHOUT_LFE: Final[Mapping[int, str]] = MappingProxyType({3: "3.0", 6: "hexagonal", 8: "octagonal"})


def _check_shape(path: Path, channels: int, count: int | None, bits: int) -> FileFormat:
    """The format that ``path``'s suffix asks for; ValueError where it cannot hold so many samples of so many channels.

    ``count``: None where it is not known.
    """
    form = check_writable(path, bits)
    if not 1 <= channels <= form.most_channels:
        raise ValueError(f"{path}: {channels} channels; allowed are 1 to {form.most_channels}")
    if form.large is None and _bytes(channels, count or 0, bits) > LARGE:
        raise ValueError(f"{path}: {path.suffix} holds less than 4 GB of audio; .wav and .flac have no bound")
    return form


def _bytes(channels: int, count: int, bits: int) -> int:
    return channels * count * bits // 8


def beyond(path: Path, samples: Float, bits: int) -> int:
    """How many of ``samples`` are above the full scale of what ``path`` will hold, which floats and codecs have not."""
    whole = bits < 32 and bits in FORMATS[path.suffix.lower()].codecs
    return int(np.count_nonzero(np.abs(samples) > 1)) if whole else 0


def check_writable(path: Path, bits: int) -> FileFormat:
    """The format that ``path``'s suffix asks for. ValueError for unknown suffixes and impossible ``bits``."""
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        kind = path.suffix or "a name without suffix"
        raise ValueError(f"{path}: cannot write {kind}; allowed are {', '.join(FORMATS)}")
    if 0 not in form.codecs and bits not in form.codecs:
        allowed = " and ".join(map(str, form.codecs))
        raise ValueError(f"{path}: {path.suffix} cannot have {bits} bits; allowed are {allowed}")
    return form


def write(
    path: Path,
    samples: Float,
    rate: int,
    *,
    layout: str | None = None,
    bits: int = 16,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes ``samples [channels, n]`` in the format of ``path``'s suffix (``FORMATS``) and makes its folder.

    ``bits`` per sample, 16, 24 or 32 (float), matter to WAV, FLAC and AIFF. ``layout`` names the channels' places; by
    default they are FFmpeg's for so many. A rate that the codec does not have becomes the next higher one, and a
    layout that Opus does not have is mixed to the one that it has of so many channels. Channels without places
    (``audio_files.no_places``) all stay what they are; AAC, which must place them, has them in a circle.

    The file appears when it is complete; an error leaves nothing behind.
    """
    with writing(
        path, len(samples), rate, layout=layout, bits=bits, tags=tags, expected=samples.shape[1]
    ) as add:
        for start in range(0, samples.shape[1], BLOCK):
            add(samples[:, start : start + BLOCK])


@contextmanager
def writing(
    path: Path,
    channels: int,
    rate: int,
    *,
    layout: str | None = None,
    bits: int = 16,
    tags: Mapping[str, str] = MappingProxyType({}),
    expected: int | None = None,
) -> Iterator[Callable[[Float], None]]:
    """:func:`write` block by block, as they are handed to what this gives; ``expected`` is about how many samples."""
    form = _check_shape(path, channels, expected, bits)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()  # of a link, which stays one
    if target.exists() and not target.is_file():  # a pipe or a device would be gone
        raise ValueError(f"{path} is there and no file; allowed are files that are new or to be replaced")
    if target.exists() and not os.access(target, os.W_OK):  # a new file in its place would need no leave
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    partial = target.with_name(f".{uuid.uuid4().hex}.part")
    size = LARGE if expected is None else _bytes(channels, expected, bits)
    options = form.large if size > LARGE / 2 else {}
    count = 0
    try:
        with (
            naming(path),
            av.open(url(partial), "w", format=form.container, options=dict(options or {})) as container,
        ):
            encoder = _Encoder(container, form, rate, channels, layout or usual_layout(channels), bits, tags)

            def add(samples: Float) -> None:
                nonlocal count
                count += samples.shape[1]
                _check_shape(path, channels, count, bits)
                with naming(path):
                    encoder.add(samples)

            yield add
            if not count and not form.may_be_empty:
                raise ValueError(f"{path}: {path.suffix} cannot hold a recording without samples")
            encoder.finish()
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


class _Encoder:
    """Samples ``[channels, n]`` into the one stream of a new file."""

    def __init__(
        self,
        container: OutputContainer,
        form: FileFormat,
        rate: int,
        channels: int,
        layout: str,
        bits: int,
        tags: Mapping[str, str],
    ) -> None:
        depth = bits if bits in form.codecs else 0
        codec = form.codecs[depth]
        rates = av.codec.Codec(codec, "w").audio_rates
        self._rate = rate
        if rates and rate not in rates:
            self._rate = min((other for other in rates if other > rate), default=max(rates))
        self._resampler = Resampler(channels, rate, self._rate)
        placeless = layout == no_places(channels)
        if layout.startswith("ambisonic") and not depth:
            raise ValueError(
                f"{container.name}: {codec} has no place for {layout}; .wav, .flac and .aiff have"
            )
        if placeless and codec != "libopus":
            layout = (_AAC_WITHOUT_LFE if codec == "aac" else {}).get(channels, usual_layout(channels))
        self._container, self._layout = container, layout
        written = layout
        if codec == "libopus" and not placeless and layout not in OPUS_LAYOUTS:
            written = OPUS_LAYOUTS[channels - 1]
        stream = container.add_stream(codec, rate=self._rate, layout=written)
        assert isinstance(stream, AudioStream)
        if codec == "libopus" and (placeless or written in _OPUS_PERMUTED):
            stream.codec_context.options = {"mapping_family": "255" if placeless else "1"}
        if depth:
            stream.format = SAMPLE_FORMATS[depth]
        if form.bit_rate:
            stream.bit_rate = form.bit_rate * channels
        container.metadata.update(
            {name: text for name, text in tags.items() if name.lower() not in _OF_THE_FILE}
        )
        container.start_encoding()  # or a recording without samples would make no file
        self._stream, self._count = stream, 0

    def add(self, samples: Float) -> None:
        self._encode(self._resampler.push(samples))

    def finish(self) -> None:
        self._encode(self._resampler.finish())
        self._container.mux(self._stream.encode(None))

    def _encode(self, samples: Float) -> None:
        if not samples.shape[1]:
            return
        packed = np.ascontiguousarray(samples.T, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts = self._count
        self._count += samples.shape[1]
        self._container.mux(self._stream.encode(frame))
