"""From packets in order to frames of audio on one timeline, over changes of source, codec and packet length.

Short holes in speech coded by Opus are filled here, by what the next packet repeats or the decoder guesses. All
others are left as gaps between the frames, which :class:`server.frames.FrameReader` conceals: better than the
decoder does it in Opus that is not coded as speech (``tests/score_concealment.py``).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import av
from aiortc.codecs import get_decoder
from aiortc.codecs.base import Decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av import AudioFrame

from percepnet.framing import SAMPLE_RATE

from ..frames import LONGEST_FILL, LONGEST_GAP, PACKET
from .libopus import UNIT, LibopusDecoder, library
from .opus import MIME_TYPE, OpusDecoder

# first byte of an Opus packet from which on its audio is not coded as speech (RFC 6716, 3.1)
TRANSFORM: Final = 0x80

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Audio:
    """What the audio is made of, in samples of 48 kHz, and packets."""

    received: int = 0
    recovered: int = 0  # from FEC
    concealed: int = 0
    missing: int = 0  # in holes too long to be concealed; pauses of the sender are none
    recovered_packets: int = 0
    concealed_packets: int = 0
    undecodable: int = 0  # packets


class Decoding:
    """Decodes packets that come in order, and hands the frames to ``deliver``."""

    def __init__(self, deliver: Callable[[AudioFrame], object]) -> None:
        self.audio = Audio()
        self.position = 0  # of the packet decoded last, samples of 48 kHz from the first
        self._deliver = deliver
        self._end = 0  # of the audio so far
        self._came = 0.0  # s of the receiver's clock, when that packet came
        self._length = PACKET  # samples of the last packet that was decoded
        self._sequence: int | None = None  # number of that packet; None before the first of a source
        self._timestamp = 0  # of the last packet, decoded or not
        self._codec = ""  # MIME type
        self._decoder: Decoder | None = None

    def new_source(self) -> None:
        """What comes next has timestamps of its own and no past to be decoded with.

        It follows upon what came as much later as it comes, but after a packet's length at least, to fade from one to
        the other.
        """
        self._sequence = None
        self._decoder = None

    def decode(
        self, codec: RTCRtpCodecParameters, sequence: int, timestamp: int, payload: bytes, came: float
    ) -> None:
        """Decode a packet that came at ``came``, s of any clock that goes on."""
        next_one = self._sequence is not None and sequence == self._sequence + 1 & 0xFFFF
        if not payload:  # of padding (RFC 6263, 4.2); it would tell libavcodec that the stream is over
            if next_one:
                self._sequence = sequence
            return
        if codec.mimeType != self._codec:
            self.new_source()
            next_one = False
        gap = self._place(timestamp, codec.clockRate, next_one, came)
        lost = 0 if self._sequence is None else sequence - self._sequence - 1 & 0xFFFF
        if gap > LONGEST_FILL:
            self._decoder = None  # one that goes on from before may be 9 dB too loud at first
        decoder = self._decoder_of(codec)
        near = self._sequence is not None and UNIT <= gap <= LONGEST_FILL
        try:
            filled, recovered = [], 0
            if near and payload[0] < TRANSFORM and isinstance(decoder, LibopusDecoder):
                frame, recovered = decoder.fill(gap, payload if lost else b"", self._end)
                filled = [frame]
            encoded = JitterFrame(payload, self.position * codec.clockRate // SAMPLE_RATE)
            decoded: list[AudioFrame] = decoder.decode(encoded)  # type: ignore[assignment]
        except av.FFmpegError as error:
            self.audio.undecodable += 1
            if self.audio.undecodable == 1:
                logger.warning("a call has packets that are no %s: %s", codec.name, error)
            return
        if lost:  # else the sender has paused
            self._count_hole(gap, recovered, lost)
        self._sequence, self._came = sequence, came
        self._length = 0
        for frame in filled:
            self._deliver(frame)
        for frame in decoded:
            self._length += frame.samples * SAMPLE_RATE // frame.sample_rate
            self._deliver(frame)
        self.audio.received += self._length
        self._end = self.position + self._length

    def _place(self, timestamp: int, rate: int, next_one: bool, came: float) -> int:
        """Set the position of a packet; returns the samples that are missing before it.

        A packet that follows the last and is stamped nearly so follows it: gateways round, and correct their clocks.
        """
        step = timestamp - self._timestamp & 0xFFFFFFFF
        self._timestamp = timestamp
        position = self.position + (step - (step >> 31 << 32)) * SAMPLE_RATE // rate
        if next_one and abs(position - self._end) < UNIT:
            position = self._end
        if self._sequence is not None and not 0 <= position - self._end <= LONGEST_GAP:
            self.new_source()  # of the same sender
        if self._sequence is None:
            later = round((came - self._came) * SAMPLE_RATE) - self._length
            position = self._end + max(PACKET, later - later % UNIT) if self._end else 0
        self.position = position
        return position - self._end

    def _count_hole(self, gap: int, recovered: int, lost: int) -> None:
        audio = self.audio
        if gap > LONGEST_FILL:
            audio.missing += min(gap, lost * self._length)  # it may have been a pause in part
            return
        audio.recovered += recovered
        audio.concealed += gap - recovered
        audio.recovered_packets += recovered > 0
        audio.concealed_packets += round((gap - recovered) / max(1, self._length))

    def _decoder_of(self, codec: RTCRtpCodecParameters) -> Decoder:
        if self._decoder is None:
            self._codec = codec.mimeType
            if self._codec.lower() != MIME_TYPE:
                self._decoder = get_decoder(codec)
            else:
                opus = library()
                self._decoder = OpusDecoder() if opus is None else LibopusDecoder(opus)
        return self._decoder
