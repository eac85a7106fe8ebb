"""Audio files to arrays and back, through FFmpeg's libraries in PyAV."""

import logging
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from percepnet.framing import SAMPLE_RATE, Float
from percepnet.resampling import resample

BLOCK: Final = 1 << 15  # samples encoded at a time
LARGE: Final = (1 << 32) - (1 << 20)  # bytes of audio; with a header and tags they fit into 32 bits
GAP: Final = 0.05  # s between what has been decoded and the next frame, from which on silence fills it
LONGEST_GAP: Final = 600.0  # s; beyond this the file's clock has jumped
AUDIO_SUFFIXES: Final = (  # what a walk through a directory takes for audio
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".avi", ".caf", ".flac", ".flv", ".m4a",
    ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpg", ".oga", ".ogg", ".opus", ".spx", ".tta",
    ".w64", ".wav", ".webm", ".wma", ".wv",
)  # fmt: skip


@dataclass(frozen=True)
class FileFormat:
    """How files of a suffix are written."""

    container: str  # FFmpeg's muxer
    codecs: Mapping[int, str]  # by bits per sample; one entry under 0 where the codec has none to choose
    bit_rate: int | None = None  # bit/s and channel
    most_channels: int = 8
    may_be_empty: bool = True  # such a file can be opened again
    # The muxer's options beyond LARGE; None where it holds no more
    large: Mapping[str, str] | None = field(default_factory=dict)


FORMATS: Final[Mapping[str, FileFormat]] = MappingProxyType(
    {
        ".wav": FileFormat(
            "wav",
            {16: "pcm_s16le", 24: "pcm_s24le", 32: "pcm_f32le"},
            most_channels=64,
            large=MappingProxyType({"rf64": "always"}),
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
)
SAMPLE_FORMATS: Final = MappingProxyType({0: "fltp", 16: "s16", 24: "s32", 32: "flt"})
# RFC 7845, 5.1.1.2; no others
OPUS_LAYOUTS: Final = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")


logger = logging.getLogger(__name__)


class Recording(NamedTuple):
    """An audio track: float32 ``[channels, n]`` in ±1, its rate in Hz, FFmpeg's name of its channels' places, tags."""

    samples: Float
    rate: int
    layout: str
    tags: Mapping[str, str] = MappingProxyType({})


def audio_files(folder: Path, *, without: Path | None = None) -> list[Path]:
    """The audio files in ``folder`` and below, relative to it, sorted; none hidden, none in ``without``.

    Raises NotADirectoryError, and ValueError if nothing is left.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no directory")
    excluded = None if without is None else without.resolve()
    found = [
        path
        for path in audio_below(folder)
        if excluded is None or not (folder / path).resolve().is_relative_to(excluded)
    ]
    if not found:
        raise ValueError(f"{folder} holds no audio files; looked for {', '.join(AUDIO_SUFFIXES)}")
    return found


def audio_below(folder: Path) -> list[Path]:
    """Names of the audio files in ``folder`` and below, relative to it, sorted; none hidden. Links are followed."""
    found: list[Path] = []
    entered: set[Path] = set()  # each folder once, or a link to one above it would be followed for ever
    links = [folder]  # last, so that what is in a folder and behind a link has its name of the folder
    while links:
        for place, folders, names in os.walk(links.pop(0)):
            if (real := Path(place).resolve()) in entered:
                folders.clear()
                continue
            entered.add(real)
            below = [Path(place, name) for name in sorted(folders) if not name.startswith(".")]
            links += [path for path in below if path.is_symlink()]
            folders[:] = [path.name for path in below if not path.is_symlink()]
            here = [Path(place, name) for name in names if not name.startswith(".")]
            found += [path for path in here if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file()]
    return sorted(path.relative_to(folder) for path in found)


def read(path: Path) -> tuple[Float, int]:
    """Samples and rate of :func:`load`."""
    found = load(path)
    return found.samples, found.rate


def load(path: Path) -> Recording:
    """The first audio track of any file that FFmpeg reads, from where the file begins.

    Where its clock says that something is missing there is silence, and what cannot be decoded is left out with a
    warning (what FFmpeg does not even find in a damaged file goes without one). Where its channels or its rate change,
    it goes on as it began. Raises OSError or ValueError, which name the file, if there is no audio or none of it can be
    decoded.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; expected an audio file")
    try:
        with _opened(path) as container:
            if not container.streams.audio:
                raise ValueError(f"{path} holds no audio")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise ValueError(f"{path}: its audio is of a codec that FFmpeg cannot decode here")
            if "channels (" in stream.layout.name:  # PyAV would write past the end of what it has reserved
                raise ValueError(f"{path} has channels in places that no layout has: {stream.layout.name}")
            # Changes the sample format only. Packed: PyAV reads no more than seven planes.
            packed = AudioResampler(format="flt")
            # Where a recording changes its channels or its rate, it goes on as it began.
            first: av.AudioFrame | None = None
            form: tuple[str, int] | None = None  # of the frames that come now
            parts: list[Float] = []
            length = 0  # of them
            # Of several tracks all begin with the file; one alone begins as it does.
            start = (container.start_time or 0) / 1e6 if container.streams.video else None
            for frame in chain(_decoded(container, stream, path), [None]):
                if frame is not None:
                    first = first or frame
                    rate = first.sample_rate
                    if form != (form := (frame.layout.name, frame.sample_rate)):
                        packed = AudioResampler("flt", first.layout.name, rate)
                    if frame.time is not None:
                        late = frame.time - length / rate - (start or 0)
                        if start is not None and GAP < late <= LONGEST_GAP:
                            silence = np.zeros((first.layout.nb_channels, round(late * rate)), np.float32)
                            parts.append(silence)
                            length += silence.shape[1]
                        elif start is None or abs(late) > GAP:  # or the clock has jumped
                            start = (start or 0) + late
                for part in packed.resample(frame):
                    samples = part.to_ndarray().reshape(-1, part.layout.nb_channels).T
                    parts.append(samples.astype(np.float32, copy=False))
                    length += part.samples
            parts = parts or [np.zeros((stream.codec_context.channels, 0), np.float32)]
            layout = (first or stream).layout.name
            if layout.endswith("channels"):  # and no places
                layout = _usual_layout(len(parts[0]))
            tags = {**stream.metadata, **container.metadata}
            rate = (first or stream).sample_rate
            return Recording(np.concatenate(parts, axis=1), rate, layout, tags)
    except av.FFmpegError as error:
        raise _named(error, path) from error


def _usual_layout(channels: int) -> str:
    """FFmpeg's for so many; where it has none, channels without places."""
    try:
        return av.AudioLayout(f"{channels}c").name
    except ValueError:
        return f"{channels}C"


def _opened(path: Path) -> InputContainer:
    """FFmpeg's view of a file, whatever its tags are written in: those of old recorders are not UTF-8."""
    try:
        return av.open(url(path))
    except UnicodeDecodeError:
        return av.open(url(path), metadata_encoding="latin-1")


def _decoded(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[av.AudioFrame]:
    """Frames of all packets that can be decoded; FFmpeg's error if there are none."""
    damaged, whole = 0, False
    error: av.error.InvalidDataError | None = None
    packets = container.demux(stream)
    while True:
        try:
            if (packet := next(packets, None)) is None:
                break
            for frame in packet.decode():
                whole = True
                assert isinstance(frame, av.AudioFrame)
                yield frame
        except av.error.EOFError:  # of a file without packets
            break
        except av.error.InvalidDataError as found:
            damaged, error = damaged + 1, found
    if error is not None and not whole:
        raise error
    if damaged:
        logger.warning("%s is damaged in %d places, which are left out", path, damaged)


def url(path: Path) -> str:
    """What FFmpeg opens as a file, whatever its name: before a colon it looks for a protocol."""
    return f"file:{path}"


def mono(path: Path) -> Float:
    """The mean of the channels of :func:`load`, at 48 kHz; ValueError for a recording without samples, too."""
    samples, rate = read(path)
    if not samples.shape[1]:
        raise ValueError(f"{path} is empty")
    return resample(samples.mean(axis=0, keepdims=True), rate, SAMPLE_RATE)[0]


def read_mono(path: Path) -> NDArray[np.int16]:
    """:func:`mono` as s16."""
    return np.rint(mono(path) * 32768).clip(-32768, 32767).astype(np.int16)


def check_shape(path: Path, shape: tuple[int, ...], bits: int) -> FileFormat:
    """The format that ``path``'s suffix asks for; ValueError where it cannot hold samples ``[channels, n]``, too."""
    form = check_writable(path, bits)
    channels, count = shape
    if not 1 <= channels <= form.most_channels:
        raise ValueError(f"{path}: {channels} channels; allowed are 1 to {form.most_channels}")
    if not count and not form.may_be_empty:
        raise ValueError(f"{path}: {path.suffix} cannot hold a recording without samples")
    if form.large is None and _is_large(shape, bits):
        raise ValueError(f"{path}: {path.suffix} holds less than 4 GB of audio; .wav and .flac have no bound")
    return form


def _is_large(shape: tuple[int, ...], bits: int) -> bool:
    """Whether samples fill more than a 32-bit length can tell."""
    return math.prod(shape) * bits // 8 > LARGE


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
    layout that Opus does not have is mixed to the one that it has of so many channels.

    The file appears when it is complete; an error leaves nothing behind.
    """
    form = check_shape(path, samples.shape, bits)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()  # of a link, which stays one
    partial = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        _encode(partial, form, Recording(samples, rate, layout or _usual_layout(len(samples)), tags), bits)
        if target.exists():
            shutil.copymode(target, partial)
        os.replace(partial, target)
    except av.FFmpegError as error:
        raise _named(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, form: FileFormat, recording: Recording, bits: int) -> None:
    samples, rate, layout, tags = recording
    depth = bits if bits in form.codecs else 0
    codec = form.codecs[depth]
    rates = av.codec.Codec(codec, "w").audio_rates
    if rates and rate not in rates:
        target = min((other for other in rates if other > rate), default=max(rates))
        samples, rate = resample(samples, rate, target), target
    known = layout in OPUS_LAYOUTS or codec != "libopus"
    written = layout if known else OPUS_LAYOUTS[len(samples) - 1]
    options = dict(form.large or {}) if _is_large(samples.shape, bits) else {}
    with av.open(url(path), "w", format=form.container, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=written)
        assert isinstance(stream, AudioStream)
        if depth:
            stream.format = SAMPLE_FORMATS[depth]
        if form.bit_rate:
            stream.bit_rate = form.bit_rate * len(samples)
        container.metadata.update({name: text for name, text in tags.items() if name not in _OF_THE_FILE})
        container.start_encoding()  # or a recording without samples would make no file
        for start in range(0, samples.shape[1], BLOCK):
            block = np.ascontiguousarray(samples[:, start : start + BLOCK].T, np.float32)
            frame = av.AudioFrame.from_ndarray(block.reshape(1, -1), format="flt", layout=layout)
            frame.sample_rate = rate
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _named(error: av.FFmpegError, path: Path) -> Exception:
    """FFmpeg's error with the file's name in it."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, str(path))
    return ValueError(f"{path}: {error.strerror}")
