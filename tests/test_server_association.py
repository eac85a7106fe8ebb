"""Packets of data channels that would keep aiortc busy, or fill its memory."""

import struct

import numpy as np
import pytest
from caller import Caller
from calling import packets, serving, until
from fuzz_datagrams import sealed

from server.media import association
from server.media.association import MOST_FRAGMENTS, is_harmless

SILENCE = np.zeros(960, np.int16)


def chunk(kind: int, value: bytes, flags: int = 0, length: int | None = None) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("!BBH", kind, flags, 4 + len(value) if length is None else length) + value + padding


def packet(*chunks: bytes, tag: int = 0) -> bytes:
    return sealed(struct.pack("!HHLL", 5000, 5000, tag, 0) + b"".join(chunks))


def sack(*gaps: tuple[int, int]) -> bytes:
    head = struct.pack("!LLHH", 1, 100_000, len(gaps), 0)
    return chunk(3, head + b"".join(struct.pack("!HH", *gap) for gap in gaps))


ENDLESS = struct.pack("!HH", 13, 0) + bytes(12)
INIT = struct.pack("!LLHHL", 1, 100_000, 10, 10, 1)
HOSTILE = {
    "an INIT with a parameter of no length": packet(chunk(1, INIT + ENDLESS)),
    "the same after a good parameter": packet(chunk(1, INIT + struct.pack("!HHL", 9, 8, 0) + ENDLESS)),
    "a RE-CONFIG": packet(sack(), chunk(130, ENDLESS)),
    "a HEARTBEAT": packet(chunk(4, ENDLESS)),
    "an ABORT": packet(chunk(6, ENDLESS)),
    "an ERROR": packet(chunk(9, ENDLESS)),
    "a SACK of 20 million": packet(sack(*[(1, 65535)] * 290)),
    "hundreds of HEARTBEATs": packet(*[chunk(4, b"")] * 285),
    "hundreds of chunks of data": packet(*[chunk(0, b"")] * 285),
    "a RE-CONFIG of hundreds": packet(chunk(130, struct.pack("!HH", 13, 4) * 280)),
    "a chunk of no length": packet(chunk(0, b"", length=0)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_keep_aiortc_busy_is_seen(what: str) -> None:
    assert not is_harmless(HOSTILE[what])


def test_what_peers_send_passes() -> None:
    good = [
        packet(sack((2, 3), (5, 90)), chunk(4, struct.pack("!HH", 1, 12) + bytes(8))),
        packet(chunk(1, INIT)),
        packet(sack(), *[chunk(0, bytes(13))] * 59),  # as many of one byte as 1200 hold
    ]
    assert all(map(is_harmless, good))
    for data in (b"", bytes(11), bytes(13), *(good[0][:end] for end in range(len(good[0])))):
        is_harmless(data)  # whatever it says, it does not raise


async def test_hostile_packets_harm_nobody_and_a_caller_that_fills_the_memory_is_hung_up_on() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as other:
        async with Caller(server.url, SILENCE) as rogue:
            dtls, sctp = rogue.transceiver.sender.transport, rogue.connection.sctp
            assert sctp is not None
            tag, number = sctp._remote_verification_tag, sctp._local_tsn
            for data in HOSTILE.values():
                await dtls._send_data(sealed(data[:4] + struct.pack("!L", tag) + data[8:]))
            await packets(other, 5)  # the event loop of the server goes on
            assert len(server.calls) == 2
            for first in range(0, 2 * MOST_FRAGMENTS, 40):  # the beginnings of as many messages
                data = struct.Struct("!LHHLB")
                begun = [
                    chunk(0, data.pack(number + n & 0xFFFFFFFF, 7, n, 51, 1), 2)
                    for n in range(first, first + 40)
                ]
                await dtls._send_data(packet(*begun, tag=tag))
            await until(lambda: len(server.calls) == 1, "the caller is hung up on")
        await packets(other, 5)


async def test_where_aiortc_is_not_as_expected_calls_go_on_unchecked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(association, "_NEEDED", {"elsewhere": int})
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 2)
    assert "no elsewhere" in caplog.text
