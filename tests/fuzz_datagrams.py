"""Datagrams at open ports: of strangers, of somebody on the path, and of a caller who has the keys and misuses them.

Random ones, and real ones that are truncated, replayed and flipped: RTP, SRTP, RTCP, STUN, DTLS, SCTP; and Opus
packets of every configuration, well formed and not.
"""

import asyncio
import contextlib
import random
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final
from unittest.mock import patch

import aioice.stun as stun
import google_crc32c
import numpy as np
import pylibsrtp
from aiortc import RTCCertificate
from aiortc.rtcdtlstransport import SRTP_PROFILES
from aiortc.sdp import SessionDescription
from caller import Caller
from calling import Server, packets
from OpenSSL import SSL

from server.media import guard

AT_ONCE: Final = 10  # datagrams between two moments for the server
PAUSE: Final = 0.01  # s of such a moment; more would be a flood, which no socket holds
CALL: Final = 1500  # datagrams to one call of the rogue, which may be over before
KEPT: Final = 200  # real datagrams to be replayed
UNLIMITED: Final = 1e9  # a second: all are to reach what parses them
MESSAGES: Final = (
    '{"enabled": true}',
    "{",
    b"\xff",
    "",
    '{"attenuation_limit_db": 1e400}',
    "[" * 4000,
    b"x" * 60_000,
)
# of Opus: 32 configurations, mono or stereo, 4 kinds of framing (RFC 6716, 3.1)
TOCS: Final = tuple(range(256))


def opus(chance: random.Random, toc: int) -> bytes:
    """A packet with that first byte; one in four is malformed."""
    body = chance.randbytes(chance.choice((0, 1, 2, 10, 80, 160, 400)))
    match toc & 3:
        case 1:
            body = body[: len(body) & ~1]
        case 2:
            first = min(len(body) // 2, 251)
            body = bytes([first]) + body
        case 3:
            frames = chance.randint(1, 6)
            body = bytes([frames]) + body[: len(body) // frames * frames]
    packet = bytes([toc]) + body
    match chance.randrange(12):
        case 0:
            packet = packet[: chance.randrange(len(packet) + 1)]
        case 1:
            packet = bytes([toc]) + chance.randbytes(chance.randrange(1300))
        case 2:
            packet = bytes([toc | 3, chance.randrange(256), *[255] * chance.randrange(6)]) + body
    return packet


def rtp(chance: random.Random, payload: bytes, number: int, ssrc: int) -> bytes:
    """A packet of payload type 96; its header is wrong at times."""
    sequence, timestamp = number & 0xFFFF, number * 960 & 0xFFFFFFFF
    first, kind = 2 << 6, 96
    match chance.randrange(20):
        case 0:
            first |= chance.randrange(64)  # padding, extension, sources that are not there
        case 1:
            kind = chance.choice((0, 8, 9, 13, 63, 97, 127, 224))
        case 2:
            sequence = chance.getrandbits(16)
        case 3:
            timestamp = chance.getrandbits(32)
        case 4:
            ssrc = chance.getrandbits(32)
        case 5:
            first |= 1 << 4
            words = chance.choice((0, 1, 2, 65535))
            payload = (
                struct.pack("!HH", chance.choice((0xBEDE, 0x1000, 0)), words) + chance.randbytes(8) + payload
            )
    return struct.pack("!BBHLL", first, kind, sequence, timestamp, ssrc) + payload


def rtcp(chance: random.Random, ssrc: int) -> bytes:
    """One or more packets, whose lengths and counts are right or not."""
    found = b""
    for _ in range(chance.choice((1, 1, 2, 5))):
        body = struct.pack("!L", ssrc) + chance.randbytes(4 * chance.randrange(12))
        words = chance.choice((len(body) // 4, len(body) // 4, 0, 65535))
        count = chance.choice((0, 1, 2, 15, 31))
        found += struct.pack("!BBH", 2 << 6 | count, chance.randint(200, 207), words) + body
    return found


def binding(chance: random.Random, username: str, password: str) -> bytes:
    """A check as ICE makes them, with attributes at random."""
    message = stun.Message(stun.Method.BINDING, chance.choice((stun.Class.REQUEST, stun.Class.INDICATION)))
    message.transaction_id = chance.randbytes(12)
    message.attributes["USERNAME"] = username
    message.attributes["PRIORITY"] = chance.getrandbits(32)
    message.attributes[chance.choice(("ICE-CONTROLLING", "ICE-CONTROLLED"))] = chance.getrandbits(64)
    if chance.random() < 0.5:
        message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity(password.encode())
    return bytes(message)


def hello() -> bytes:
    """The first flight of a DTLS client."""
    context = RTCCertificate.generateCertificate()._create_ssl_context(srtp_profiles=SRTP_PROFILES)
    client = SSL.Connection(context)
    client.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(1500)


def sealed(data: bytes) -> bytes:
    """An SCTP packet with the checksum that it should have (RFC 9260, 6.8)."""
    unsealed = data[:8] + bytes(4) + data[12:]
    return data[:8] + struct.pack("<L", google_crc32c.value(unsealed)) + data[12:]


def spoilt(chance: random.Random, data: bytes) -> bytes:
    """The same again, cut off, with bits flipped or with something more."""
    match chance.randrange(5):
        case 0:
            return data[: chance.randrange(len(data) + 1)]
        case 1 | 2:
            flipped = bytearray(data)
            for _ in range(chance.choice((1, 2, 8))):
                if flipped:
                    flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            return bytes(flipped)
        case 3:
            return data + chance.randbytes(chance.choice((1, 4, 100)))
    return data


def garbage(chance: random.Random) -> bytes:
    """Of each kind by its first byte (RFC 7983, 7)."""
    first = chance.choice((0, 1, 3, 20, 21, 22, 23, 63, 64, 128, 144, 191, 255))
    return (bytes([first]) + chance.randbytes(chance.choice((0, 1, 11, 12, 19, 20, 100, 1400))))[
        : chance.choice((0, 1, 2, 2000, 2000, 2000))
    ]


def recorded(caller: Caller) -> deque[bytes]:
    """What the caller sends from now on, encrypted as it is."""
    ice = caller.transceiver.sender.transport.transport
    kept, send = deque[bytes](maxlen=KEPT), ice._send

    async def noted(data: bytes) -> None:
        kept.append(data)
        await send(data)

    ice._send = noted  # type: ignore[method-assign]
    return kept


class Port:
    """The server's port of a call, as a stranger reaches it and as one does who has taken the caller's address."""

    def __init__(self, caller: Caller, kept: deque[bytes], password: str = "no one has told it me") -> None:
        session = SessionDescription.parse(caller.connection.remoteDescription.sdp)
        self._address = next((c.ip, c.port) for c in session.media[0].ice_candidates)
        self._ice = caller.transceiver.sender.transport.transport._connection
        self._kept = kept
        self._password = password
        self._hello = hello()

    def hostile(self, chance: random.Random) -> bytes:
        username = f"{self._ice.remote_username}:{self._ice.local_username}"
        match chance.randrange(8):
            case 0 | 1:
                return garbage(chance)
            case 2 | 3 | 4 if self._kept:
                return spoilt(chance, chance.choice(self._kept))
            case 5:
                return spoilt(chance, self._hello)
        message = binding(chance, username, self._password)
        return spoilt(chance, message) if chance.random() < 0.5 else message

    def send(self, chance: random.Random, stranger: socket.socket, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            stranger.sendto(data, self._address)

    def send_as_caller(self, data: bytes) -> None:
        for pair in self._ice._nominated.values():
            pair.protocol.transport.sendto(data, pair.remote_addr)


class Rogue:
    """A caller with a good connection, and what it does with it."""

    def __init__(self, caller: Caller) -> None:
        self._dtls = caller.transceiver.sender.transport
        self._ssrc = caller.transceiver.sender._ssrc
        self._tocs = deque(TOCS)
        self._channel = caller.channel
        self._said = deque[bytes](maxlen=KEPT)  # SCTP
        self._send_data = self._dtls._send_data
        self._dtls._send_data = self._noted  # type: ignore[method-assign]

    @property
    def is_over(self) -> bool:
        return self._dtls.state != "connected"

    async def send(self, chance: random.Random, number: int) -> None:
        match chance.randrange(10):
            case 0 | 1 | 2 | 3 | 4 | 5:
                self._tocs.rotate()
                await self._dtls._send_rtp(rtp(chance, opus(chance, self._tocs[0]), number, self._ssrc))
            case 6:
                await self._dtls._send_rtp(rtcp(chance, self._ssrc))
            case 7:
                await self._dtls._send_rtp(spoilt(chance, rtcp(chance, self._ssrc)).ljust(8, b"\x80"))
            case 8:
                if self._channel.readyState == "open":
                    self._channel.send(chance.choice(MESSAGES))
            case 9 if self._said:
                message = spoilt(chance, chance.choice(self._said))
                await self._send_data(sealed(message) if chance.random() < 0.9 else message)

    async def _noted(self, data: bytes) -> None:
        self._said.append(data)
        await self._send_data(data)


@asynccontextmanager
async def calling(server: Server) -> AsyncIterator[Caller]:
    async with Caller(server.url, np.zeros(960, np.int16)) as caller:
        await packets(caller, 2)
        caller.transceiver.sender.replaceTrack(None)  # from now on only the rogue itself speaks
        yield caller


@contextlib.contextmanager
def strangers(count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
            sock.setblocking(False)
        yield sockets


async def attack(
    server: Server,
    victim: Caller,
    count: int,
    seed: int,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, Any]:
    """Send so many datagrams to the port of the call at hand, and through calls of a rogue."""
    kept = recorded(victim)
    at_hand = Port(victim, kept)
    done = calls = 0
    began, cpu = time.monotonic(), time.process_time()
    faults: dict[str, int] = {}
    with (
        patch.object(guard, "FROM_CALLER", UNLIMITED),
        patch.object(guard, "FROM_OTHERS", UNLIMITED),
        patch.object(guard, "DTLS", UNLIMITED),
        strangers(8) as sockets,
    ):
        while done < count:
            async with calling(server) as caller:
                calls += 1
                ice = caller.transceiver.sender.transport.transport._connection
                rogue, own = Rogue(caller), Port(caller, recorded(caller), ice.remote_password or "")
                end = min(count, done + CALL)
                while done < end and not rogue.is_over:
                    chance = random.Random(f"{seed} {done}")
                    # what cannot be sent, too
                    with contextlib.suppress(ConnectionError, pylibsrtp.Error, SSL.Error):
                        await one(chance, done, rogue, own, at_hand, chance.choice(sockets))
                    done += 1
                    if done % AT_ONCE == 0:
                        await asyncio.sleep(PAUSE)
                        progress(done)
                for name, value in fates(server, caller.id).items():
                    faults[name] = faults.get(name, 0) + value
    return {
        "calls": calls,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "rogue": faults,
        "at_hand": fates(server, victim.id),
    }


async def one(
    chance: random.Random, number: int, rogue: Rogue, own: Port, at_hand: Port, stranger: socket.socket
) -> None:
    match chance.randrange(8):
        case 0 | 1 | 2:
            await rogue.send(chance, number)
        case 3:
            own.send_as_caller(own.hostile(chance))
        case 4:
            own.send(chance, stranger, own.hostile(chance))
        case 5 | 6:
            at_hand.send(chance, stranger, at_hand.hostile(chance))
        case 7:
            at_hand.send_as_caller(at_hand.hostile(chance))


def fates(server: Server, id: str) -> dict[str, int]:
    """What the server says of the datagrams of a call, if it is still there."""
    try:
        call = server.calls.get(id)
    except KeyError:
        return {"ended": 1}
    assert call._guard is not None
    undecodable = call._reception.audio.undecodable if call._reception is not None else 0
    return {"refused": call._guard.refused, "faults": call._guard.faults, "undecodable": undecodable}
