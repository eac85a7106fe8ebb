"""Audio files to arrays, through FFmpeg's libraries in PyAV."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from percepnet.framing import SAMPLE_RATE, Float, Pcm, to_pcm
from percepnet.resampling import resample

GAP: Final = 0.05  # s between what has been decoded and the next frame, from which on silence fills it
LOOK: Final = 0.5  # s of audio after it that must be late, too: stamps of what was only held up catch up
# s; beyond the first the file's clock has jumped, unless the file says that it is so long, and beyond the second in any
# case: clocks begin anew after 13 hours and more
LONGEST_GAP: Final = 600.0
LONGEST_PAUSE: Final = 12 * 3600.0
PIECE: Final = 1.0  # s of silence at once
AUDIO_SUFFIXES: Final = (  # what a walk through a directory takes for audio
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".avi", ".caf", ".flac", ".flv", ".m2ts",
    ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".mts", ".oga", ".ogg",
    ".ogv", ".opus", ".rm", ".spx", ".ts", ".tta", ".vob", ".w64", ".wav", ".webm", ".wma", ".wmv", ".wv",
)  # fmt: skip


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """An audio track of a file that is open."""

    blocks: Iterator[Float]  # float32 [channels, n] in ±1
    rate: int  # Hz
    layout: str  # FFmpeg's name of its channels' places
    channels: int
    expected: int | None  # samples that the file says it has, about
    tags: Mapping[str, str]


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
        for place, folders, names in os.walk(links.pop(0), onerror=_passed_over):
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


def _passed_over(error: OSError) -> None:
    logger.warning("%s is passed over: %s", error.filename, error.strerror)


def read(path: Path) -> tuple[Float, int]:
    """Samples and rate of :func:`load`."""
    found = load(path)
    return found.samples, found.rate


def usual_layout(channels: int) -> str:
    """FFmpeg's for so many; where it has none, :func:`no_places`."""
    try:
        return av.AudioLayout(f"{channels}c").name
    except ValueError:
        return no_places(channels)


def no_places(channels: int) -> str:
    """FFmpeg's layout of channels that are nowhere, as of a recorder with a microphone for each talker."""
    return f"{channels}C"


def load(path: Path) -> Recording:
    """All of :func:`reading` at once."""
    with reading(path) as track:
        parts = list(track.blocks) or [np.zeros((track.channels, 0), np.float32)]
        return Recording(np.concatenate(parts, axis=1), track.rate, track.layout, track.tags)


@contextmanager
def reading(path: Path) -> Iterator[Track]:
    """The first audio track of any file that FFmpeg reads, from where the file begins.

    Where its clock says that something is missing there is silence, and what cannot be decoded is left out with a
    warning (what FFmpeg does not even find in a damaged file goes without one). Where its channels or its rate change,
    it goes on as it began. Raises OSError or ValueError, which name the file, if there is no audio or none of it can be
    decoded.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; expected an audio file")
    with naming(path):
        container = _opened(path)
    with container:
        with naming(path):
            if not container.streams.audio:
                raise ValueError(f"{path} holds no audio")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise ValueError(f"{path}: its audio is of a codec that FFmpeg cannot decode here")
            if stream.codec_context.channels < 3:  # one microphone may be called left, two back
                stream.codec_context.layout = usual_layout(stream.codec_context.channels)
            if "channels (" in stream.layout.name:  # PyAV would write past the end of what it has reserved
                raise ValueError(f"{path} has channels in places that no layout has: {stream.layout.name}")
            frames = _decoded(container, stream, path)
            first = next(frames, None)
        layout = (first or stream).layout.name
        rate = (first or stream).sample_rate
        channels = first.layout.nb_channels if first else stream.codec_context.channels
        yield Track(
            blocks=_blocks(first, frames, container, path) if first else iter(()),
            rate=rate,
            layout=_placed(layout, channels),
            channels=channels,
            expected=max(0, round((container.duration or 0) * rate / av.time_base)) or None,
            tags={name: _told(text) for name, text in {**stream.metadata, **container.metadata}.items()},
        )


def _placed(layout: str, channels: int) -> str:
    """A layout as PyAV takes it again; it tells channels without places as "3 channels"."""
    if not layout.endswith("channels"):
        return layout
    return usual_layout(channels) if channels < 3 else no_places(channels)


def _blocks(
    first: av.AudioFrame, others: Iterator[av.AudioFrame], container: InputContainer, path: Path
) -> Iterator[Float]:
    """Samples ``[channels, n]`` of frames, and silence where some are missing."""
    rate, layout, channels = first.sample_rate, first.layout.name, first.layout.nb_channels
    # Changes the sample format only. Packed: PyAV reads no more than seven planes.
    packed = AudioResampler("flt", layout, rate)
    form = layout, rate  # of the frames that come now
    # Of several tracks all begin with the file; one alone begins as it does.
    start = (container.start_time or 0) / av.time_base if container.streams.video else None
    # s of the file that are still to come
    left = min(LONGEST_PAUSE, (container.duration or 0) / av.time_base)
    with naming(path):
        for frame, ahead in _looking_ahead(chain([first], others)):
            if form != (form := (frame.layout.name, frame.sample_rate)):
                packed = AudioResampler("flt", layout, rate)  # it goes on as it began
            if ahead:
                if start is None:
                    start = ahead[0]
                late, early = min(ahead) - start, max(ahead) - start
                if GAP < late <= max(LONGEST_GAP, left):
                    missing = round(late * rate)
                    start += missing / rate
                    left -= missing / rate
                    while missing:
                        piece = min(missing, round(PIECE * rate))
                        missing -= piece
                        yield np.zeros((channels, piece), np.float32)
                elif late > GAP or early < -GAP:
                    logger.warning(
                        "%s: its clock jumps by %+.1f s, which is left out", path, ahead[0] - start
                    )
                    start = ahead[0]
            left -= frame.samples / frame.sample_rate
            yield from _samples(packed.resample(frame))
        yield from _samples(packed.resample(None))


def _looking_ahead(frames: Iterator[av.AudioFrame]) -> Iterator[tuple[av.AudioFrame, list[float]]]:
    """Each frame, and what it and those within ``LOOK`` after it are stamped beyond the audio that was before them, s;
    nothing of a frame without a stamp."""
    waiting: deque[tuple[av.AudioFrame, float | None]] = deque()
    end = begin = 0.0  # of the audio that has come, and of the frame that is next, s
    more = True
    while True:
        while more and end - begin <= LOOK:
            if (frame := next(frames, None)) is None:
                more = False
                break
            waiting.append((frame, None if frame.time is None else frame.time - end))
            end += frame.samples / frame.sample_rate
        if not waiting:
            return
        stamped = waiting[0][1] is not None
        ahead = [beyond for _, beyond in waiting if beyond is not None] if stamped else []
        frame, _ = waiting.popleft()
        begin += frame.samples / frame.sample_rate
        yield frame, ahead


def _samples(parts: list[av.AudioFrame]) -> Iterator[Float]:
    for part in parts:
        yield part.to_ndarray().reshape(-1, part.layout.nb_channels).T.astype(np.float32, copy=False)


def _told(text: str) -> str:
    """A tag's text; PyAV from 19 on leaves what is no UTF-8 in it, as of old recorders, for who asks."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text


def _opened(path: Path) -> InputContainer:
    """FFmpeg's view of a file, whatever its tags are written in: those of old recorders are not UTF-8."""
    try:
        return av.open(url(path))
    except UnicodeDecodeError:
        return av.open(url(path), metadata_encoding="latin-1")


def _decoded(container: InputContainer, stream: AudioStream, path: Path) -> Iterator[av.AudioFrame]:
    """Frames of all packets that can be decoded; FFmpeg's error if there are none."""
    damaged, whole = 0, False
    error: av.FFmpegError | None = None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.EOFError, IndexError):  # the latter is PyAV's own, where a stream has begun late
            break
        except av.error.InvalidDataError as found:
            damaged, error = damaged + 1, found
            continue
        if packet is None:
            break
        try:
            for frame in packet.decode():
                whole = True
                assert isinstance(frame, av.AudioFrame)
                yield frame
        except av.error.EOFError:
            break
        except av.FFmpegError as found:  # decoders have many for damage, some only numbers
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


def read_mono(path: Path) -> Pcm:
    """:func:`mono` as s16."""
    return to_pcm(mono(path))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """FFmpeg's errors name the file."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"{path}: {error.strerror}") from error
