"""libopus itself, for what FFmpeg's wrapper of it leaves out: in-band FEC, and concealment by the decoder.

Taken is the library that PyAV brings along, else the system's. Decoding through it takes as long as through
PyAV, so a call has one decoder for all, whose state goes on over holes. Encoding takes half as long, for PyAV has
a filter graph before each encoder, with a thread for every core.
"""

import ctypes
import ctypes.util
import logging
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from av import AudioFrame

from percepnet.framing import SAMPLE_RATE

from ..frames import TIME_BASE

MADE_FOR: Final = (1, 5)  # the first with opus_packet_has_lbrr
LONGEST_PACKET: Final = 5760  # samples, 120 ms
LARGEST_PACKET: Final = 1275  # bytes of one frame (RFC 6716, 3.4)
SPEECH, LOW_DELAY = 2048, 2051  # OPUS_APPLICATION_VOIP and _RESTRICTED_LOWDELAY
BITRATE, COMPLEXITY, FEC, EXPECTED_LOSS, CONSTRAINED = 4002, 4010, 4012, 4014, 4020  # OPUS_SET_…
UNIT: Final = 120  # samples, 2.5 ms: what the decoder fills is a multiple of it
_FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {  # result and arguments
    "opus_get_version_string": (ctypes.c_char_p, []),
    "opus_decoder_get_size": (ctypes.c_int, [ctypes.c_int]),
    "opus_decoder_init": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int]),
    "opus_decode": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int, ctypes.c_int],
    ),
    "opus_encoder_get_size": (ctypes.c_int, [ctypes.c_int]),
    "opus_encoder_init": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int, ctypes.c_int]),
    "opus_encoder_ctl": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int]),  # and a value
    "opus_encode": (
        ctypes.c_int32,
        [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int32],
    ),
    "opus_packet_get_nb_samples": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32]),
    "opus_packet_has_lbrr": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_int32]),
}

logger = logging.getLogger(__name__)


@cache
def library() -> Any | None:
    """The library with the types of its functions set; None, with a warning, where none fits."""
    for path in _candidates():
        try:
            # Keeps the interpreter's lock: a call is short, and to get the lock back may take 5 ms.
            found = ctypes.PyDLL(path)
            for name, (result, arguments) in _FUNCTIONS.items():
                function = getattr(found, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            logger.debug("%s is not taken: %s", path, error)
            continue
        version = re.search(r"libopus (\d+)\.(\d+)", found.opus_get_version_string().decode())
        if version and tuple(map(int, version.groups())) >= MADE_FOR:
            return found
    logger.warning("no libopus from %d.%d on is found: Opus is decoded without FEC", *MADE_FOR)
    return None


def _candidates() -> Iterator[str]:
    package = Path(av.__file__).parent
    for folder in (package.parent / "av.libs", package / ".dylibs", package.parent / "av.dylibs"):
        yield from map(str, sorted(folder.glob("libopus[-.]*")))
    if system := ctypes.util.find_library("opus"):
        yield system


class OpusError(av.FFmpegError):
    """A packet that libopus does not take; the next may be good again."""


def _checked(result: int) -> int:
    if result < 0:
        raise OpusError(result, f"libopus returns {result}")
    return result


class LibopusEncoder:
    """Encodes packed s16 at 48 kHz for :data:`SPEECH` or :data:`LOW_DELAY`, with settings such as :data:`BITRATE`."""

    def __init__(self, library: Any, channels: int, application: int, settings: Mapping[int, int]) -> None:
        self._library, self._channels = library, channels
        self._state = ctypes.create_string_buffer(library.opus_encoder_get_size(channels))
        _checked(library.opus_encoder_init(self._state, SAMPLE_RATE, channels, application))
        for number, value in settings.items():
            _checked(library.opus_encoder_ctl(self._state, number, ctypes.c_int32(value)))
        self._packet = ctypes.create_string_buffer(LARGEST_PACKET)

    def encode(self, frame: AudioFrame) -> bytes:
        """One packet of a frame of 2.5 to 120 ms; raises :class:`OpusError` for a length that Opus does not have.

        ValueError for another format, rate or number of channels, of which libopus would read what is not there.
        """
        found = (frame.format.name, frame.layout.nb_channels, frame.sample_rate)
        if found != ("s16", self._channels, SAMPLE_RATE):
            raise ValueError(
                "the audio is {} in {} channels at {} Hz; allowed: s16 in {} at {}".format(
                    *found, self._channels, SAMPLE_RATE
                )
            )
        pcm, size = frame.planes[0].buffer_ptr, len(self._packet)
        count = self._library.opus_encode(self._state, pcm, frame.samples, self._packet, size)
        return ctypes.string_at(self._packet, _checked(count))


class LibopusDecoder(Decoder):
    """Mono at 48 kHz. Raises :class:`OpusError` for what is no Opus."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._state = ctypes.create_string_buffer(library.opus_decoder_get_size(1))
        _checked(library.opus_decoder_init(self._state, SAMPLE_RATE, 1))
        self._pcm = np.zeros(LONGEST_PACKET, np.int16)
        self._address = self._pcm.ctypes.data

    def decode(self, encoded_frame: JitterFrame) -> list[AudioFrame]:  # type: ignore[override]
        return [self._frame(self._decode(encoded_frame.data, LONGEST_PACKET, fec=0), encoded_frame.timestamp)]

    def fill(self, samples: int, following: bytes, timestamp: int) -> tuple[AudioFrame, int]:
        """What goes in a hole of ``samples`` (up to 5760) before the packet ``following``.

        Its end is what that packet repeats of the one before, if it does so: so many samples come second. The
        rest is the decoder's guess. ``timestamp``: that of the hole.
        """
        whole = -(-samples // UNIT) * UNIT
        recovered = 0
        if self._library.opus_packet_has_lbrr(following, len(following)) > 0:
            length = self._library.opus_packet_get_nb_samples(following, len(following), SAMPLE_RATE)
            recovered = length if 0 < length <= whole else 0
        pcm = self._decode(following if recovered else b"", whole, fec=int(recovered > 0))
        return self._frame(pcm[-samples:], timestamp), min(recovered, samples)

    def _decode(self, data: bytes, samples: int, *, fec: int) -> Any:
        """A view of the samples that holds until the next call; those of a lost packet where ``data`` is empty."""
        count = self._library.opus_decode(self._state, data or None, len(data), self._address, samples, fec)
        return self._pcm[: _checked(count)]

    @staticmethod
    def _frame(pcm: Any, timestamp: int) -> AudioFrame:
        frame = AudioFrame(format="s16", layout="mono", samples=len(pcm))
        frame.planes[0].update(pcm.tobytes())
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, TIME_BASE, timestamp
        return frame
