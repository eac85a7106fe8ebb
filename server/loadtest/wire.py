"""What a caller's packets do on the wire, noted where DTLS meets ICE, and their audio without a decoder.

Adapters to aiortc for callers that shall cost little. The header of an RTP packet is in the clear also in
SRTP (RFC 3711, 3.1), so times are noted without decrypting anything. A load test whose adapters do not fit
cannot measure, so unlike those of the server they raise.
"""

import asyncio
import contextlib
import itertools
import struct
import time
from array import array
from random import Random
from typing import Any, Final

import aiortc
from aiortc import RTCDtlsTransport, RTCRtpReceiver, RTCRtpSender, RTCRtpTransceiver
from aiortc.rtcrtpparameters import RTCRtpSendParameters

from percepnet.framing import SAMPLE_RATE
from server.frames import PACKET
from server.media.fitting import MADE_FOR

from .speech import Speech

HEADER: Final = struct.Struct("!BBHLL")  # of RTP (RFC 3550, 5.1): no CSRC, no extension
RTP_VERSION: Final = 2 << 6


class Log:
    """RTP packets that went one way: samples since the first packet's timestamp, and s of ``time.monotonic``."""

    def __init__(self) -> None:
        self.times = array("q")
        self.at = array("d")
        self._first: int | None = None

    def note(self, packet: bytes) -> int:
        """Note that ``packet`` passes now; returns its time."""
        self.times.append(self.time(packet))
        self.at.append(time.monotonic())
        return self.times[-1]

    def time(self, packet: bytes) -> int:
        """The time of ``packet``; the first of all that are asked for is 0."""
        timestamp = int.from_bytes(packet[4:8], "big")
        if self._first is None:
            self._first = timestamp
        # A packet that has overtaken the first is before it, not 2^32 samples after.
        return (timestamp - self._first + 0x80000000 & 0xFFFFFFFF) - 0x80000000


class Tape:
    """What has gone over a wire."""

    def __init__(self) -> None:
        self.sent = Log()
        self.lost: set[int] = set()  # times of packets that were sent and got lost on purpose
        self.came = Log()
        self.payloads: dict[int, bytes] = {}  # of those that came and were listened to, by time
        self.first = asyncio.Event()  # something has come


class Wire:
    """Between DTLS and ICE of the transport of ``transceiver``: notes RTP packets on ``tape``.

    Packets that come later than ``listen`` samples after the first end here, undecrypted; None lets all through.
    """

    def __init__(self, transceiver: RTCRtpTransceiver, tape: Tape, *, listen: int | None = None) -> None:
        ice = transceiver.receiver.transport.transport
        _check(ice, "_send", "_recv")
        self._tape = tape
        self._listen = listen
        self._send, self._recv = ice._send, ice._recv
        ice._send, ice._recv = self._noted_send, self._noted_recv

    async def _noted_send(self, data: bytes) -> None:
        if is_rtp(data):
            self._tape.sent.note(data)
        await self._send(data)

    async def _noted_recv(self) -> bytes:
        while True:
            data = await self._recv()
            if not is_rtp(data):
                return data
            time = self._tape.came.note(data)
            self._tape.first.set()
            if self._listen is None or time < self._listen:
                return data


class PackedSender:
    """Stands for ``sender``: puts packets of ``speech`` on the wire, in real time, that were encoded before.

    It begins with packet ``first``; ``chance`` is for its numbers and times. aiortc's own sender would take them as
    well, for twice the processor time.
    """

    def __init__(self, sender: RTCRtpSender, speech: Speech, first: int, chance: Random) -> None:
        _check(sender, "send")
        _check(sender.transport, "_send_rtp")
        self._sender = sender
        self._speech = speech
        self._first = first
        self._chance = chance
        self._talking: asyncio.Task[None] | None = None
        sender.send = self._send  # type: ignore[method-assign]

    async def stop(self) -> None:
        """Fall silent; before the connection is closed."""
        if self._talking is not None:
            self._talking.cancel()
            await asyncio.wait([self._talking])

    async def _send(self, parameters: RTCRtpSendParameters) -> None:
        if self._talking is None:
            payload_type = parameters.codecs[0].payloadType
            assert payload_type is not None  # it has been negotiated
            talk = self._talk(self._sender.transport, payload_type)
            self._talking = asyncio.create_task(talk, name="a caller talks")

    async def _talk(self, transport: RTCDtlsTransport, payload_type: int) -> None:
        payloads, ssrc = self._speech.payloads, self._sender._ssrc
        sequence, timestamp = self._chance.getrandbits(15), self._chance.getrandbits(32)
        began = time.monotonic()
        for number in itertools.count():
            if (wait := began + number * PACKET / SAMPLE_RATE - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            header = HEADER.pack(
                RTP_VERSION,
                payload_type,
                sequence + number & 0xFFFF,
                timestamp + number * PACKET & 0xFFFFFFFF,
                ssrc,
            )
            # if the other end has closed, whoever holds the call is told
            with contextlib.suppress(ConnectionError):
                await transport._send_rtp(header + payloads[(self._first + number) % len(payloads)])


class Recorder:
    """Stands for ``receiver``, which would start a thread to decode: keeps payloads on ``tape``."""

    def __init__(self, receiver: RTCRtpReceiver, tape: Tape) -> None:
        _check(receiver, "receive")
        _check(receiver.transport, "_register_rtp_receiver")
        self._transport = receiver.transport
        self._tape = tape
        receiver.receive = self._receive  # type: ignore[method-assign]

    async def _receive(self, parameters: Any) -> None:
        self._transport._register_rtp_receiver(self, parameters)

    async def _handle_rtp_packet(self, packet: Any, arrival_time_ms: int) -> None:
        # The packet that has just been noted: it is decrypted before the next is fetched.
        self._tape.payloads[self._tape.came.times[-1]] = packet.payload

    async def _handle_rtcp_packet(self, packet: Any) -> None:
        pass

    def _handle_disconnect(self) -> None:
        pass


def _check(thing: object, *methods: str) -> None:
    missing = [name for name in methods if not callable(getattr(thing, name, None))]
    if missing:
        raise RuntimeError(
            f"aiortc {aiortc.__version__} is not built like {MADE_FOR}, which the load test was made for: "
            f"{type(thing).__name__} has no {', '.join(missing)}"
        )


def is_rtp(data: bytes) -> bool:
    """Neither DTLS (RFC 7983, 7) nor RTCP (RFC 5761, 4)."""
    return 127 < data[0] < 192 and not 192 <= data[1] <= 223
