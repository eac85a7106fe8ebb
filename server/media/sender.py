"""Encoding on the event loop, in the place of aiortc's hop to a thread of a pool for each packet.

An encoder takes 0.1 to 0.2 ms for 20 ms of audio, short enough for the loop; a hop wakes two threads for it.
"""

import inspect
from typing import Final

import aiortc.rtcrtpsender
from aiortc import RTCRtpSender
from aiortc.codecs import get_encoder
from aiortc.codecs.base import Encoder
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import AudioFrame, Packet

from .audiolevel import audio_level_dbov
from .fitting import fits
from .opus import MIME_TYPE, OpusEncoder, OpusOptions, Pauses, level_of

LONGEST_STEP: Final = 0.025  # s between packets of a talkspurt; rates that do not divide 20 ms vary a little
_METHOD: Final = "_next_encoded_frame"  # awaited by the sender for each packet that it makes
_RESULT: Final = "RTCEncodedFrame"
_RESULT_FIELDS: Final = ["payloads", "timestamp", "audio_level"]


class Unmarked(list[bytes]):
    """Payloads of a frame that go out without RTP's marker bit, which aiortc sets at the last of a frame.

    So it is for pictures. Of audio it tells that a talkspurt begins (RFC 3551, 4.1), where gateways empty their
    buffers. aiortc asks for the length only to find the last.
    """

    def __len__(self) -> int:
        return super().__len__() + 1


class InlineEncoding:
    """Fetches frames of the track of ``sender`` and encodes them at once; Opus with ``options``.

    What a track gives encoded, for several senders at once, is passed on as it is.
    """

    def __init__(self, sender: RTCRtpSender, options: OpusOptions) -> None:
        self._sender = sender
        self._options = options
        self._opus: OpusEncoder | None = None
        self._other: Encoder | None = None
        self._result = getattr(aiortc.rtcrtpsender, _RESULT)
        self._due: int | None = None  # timestamp up to which a packet goes on where the last ended
        self._pause = False  # there was a gap, and nothing to be heard since

    async def __call__(self, codec: RTCRtpCodecParameters) -> object | None:
        """What aiortc's own method returns: an encoded frame, or None where nothing is to be sent."""
        frame = await self._sender.track.recv()
        if not self._sender._enabled:
            return None
        if isinstance(frame, Packet):
            assert frame.pts is not None
            return self._frame(codec, [bytes(frame)], frame.pts, level_of(frame))
        if not isinstance(frame, AudioFrame):
            raise TypeError(f"a sender of audio takes av.AudioFrame, not {type(frame).__name__}")
        level = audio_level_dbov(frame)
        payloads, timestamp = self._encode(codec, frame, level)
        return self._frame(codec, payloads, timestamp, level) if payloads else None

    def _frame(
        self, codec: RTCRtpCodecParameters, payloads: list[bytes], timestamp: int, level: int
    ) -> object:
        """An encoded frame, marked where it begins a talkspurt: the first, and the first to be heard after a pause."""
        first = self._due is None
        self._pause = self._pause or (self._due is not None and timestamp > self._due)
        begins = first or (self._pause and level >= Pauses.QUIET)
        self._pause = self._pause and not begins
        self._due = timestamp + round(LONGEST_STEP * codec.clockRate)
        return self._result(payloads if begins else Unmarked(payloads), timestamp, level)

    def _encode(self, codec: RTCRtpCodecParameters, frame: AudioFrame, level: int) -> tuple[list[bytes], int]:
        if codec.mimeType.lower() == MIME_TYPE:
            if self._opus is None:
                self._opus = OpusEncoder(self._options)
            return self._opus.encode(frame, level)
        if self._other is None:
            self._other = get_encoder(codec)
        return self._other.encode(frame)


def install(sender: RTCRtpSender, options: OpusOptions) -> bool:
    """Let an audio sender that has not started encode on the event loop.

    Returns False, with a warning, where aiortc is not built as it must be for that; the call then has aiortc's
    own encoder, which wants stereo for Opus, and its threads.
    """
    missing = [] if hasattr(sender, "_enabled") else ["_enabled"]
    method = getattr(sender, _METHOD, None)
    if not inspect.iscoroutinefunction(method) or list(inspect.signature(method).parameters) != ["codec"]:
        missing.append(f"{_METHOD}(codec)")
    result = getattr(aiortc.rtcrtpsender, _RESULT, None)
    if not inspect.isclass(result) or list(inspect.signature(result).parameters) != _RESULT_FIELDS:
        missing.append(f"{_RESULT}({', '.join(_RESULT_FIELDS)})")
    if not fits(missing, "our encoding", "it keeps its own, and options of Opus have no effect"):
        return False
    setattr(sender, _METHOD, InlineEncoding(sender, options))
    return True
