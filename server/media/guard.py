"""What comes from the network to a call's sockets, before aioice and aiortc see it.

aioice hands on what anybody sends, into a queue without bound, and aiortc's reader ends, and with it the call,
at an empty datagram. Here datagrams are told apart by their first byte (RFC 7983, 7). The caller's addresses are
those of ICE: of the candidates in the offer, and those from which a check with the right password came. From
elsewhere only STUN and SRTP are let in, which show by themselves whose they are, and few a second.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol

import aioice
from aiortc import RTCDtlsTransport

from ..allowance import Allowance
from .fitting import fits, lacking

MOST_WAITING: Final = 512  # datagrams that aiortc has not fetched
FROM_CALLER: Final = 600.0  # datagrams a second in the long run; audio has 50, or 400 in packets of 2.5 ms
DTLS: Final = 100.0  # of them, DTLS: each may hold dozens of messages of a data channel, at 50 µs
RTCP: Final = 50.0  # of them, RTCP; browsers send two
FROM_OTHERS: Final = 200.0
FROM_ONE: Final = 80.0  # of them, from one host: the caller who has moved to an unknown one sends 50
MOST_HOSTS: Final = 64  # unknown ones whose share is kept
MOST_ADDRESSES: Final = 100  # of a caller; at each new one aioice makes checks of its own, whosever it is
MOST_SOURCES: Final = 31  # SSRCs of a call at once; as many as a receiver report can name (RFC 3550, 6.4.2)
# a second, beyond those: a gateway begins one after each hold, and the oldest is forgotten
MORE_SOURCES: Final = 0.1
MOST_FAULTS: Final = 1000  # of aiortc in a call; one that came without a datagram would come for ever
SHORTEST_RTP: Final = 12  # bytes
BYE: Final = 203  # packet type of a source's farewell
MOST_REPORTS: Final = 16  # RTCP packets in a datagram; each is looked at several times
RTPFB: Final = 205  # packet type of feedback about RTP, and its format for what is to be sent again
NACK: Final = 1
_ICE: Final = {"_queue": asyncio.Queue, "_protocols": list, "_remote_candidates": list}
_DTLS: Final = ("_recv_next", "_handle_rtp_data", "_handle_rtcp_data")

Address = tuple[str, int]

logger = logging.getLogger(__name__)


class PassOn(Protocol):
    def __call__(self, data: bytes, addr: Address) -> None: ...


class Inbox(asyncio.Queue[Any]):
    """A queue that never grows: when it is full what comes is dropped. The word of the end (None) always fits."""

    def put_nowait(self, item: Any) -> None:
        if item is None or self.qsize() < MOST_WAITING:
            super().put_nowait(item)


class Guard:
    """Stands before the sockets of ``ice``. Times are s of ``time.monotonic()``."""

    def __init__(self, ice: aioice.Connection) -> None:
        # last datagram of the caller; last RTP packet that was authentic
        self.heard = self.spoken = time.monotonic()
        self.refused = 0  # datagrams
        self.faults = 0  # datagrams that aiortc failed at
        # SSRCs of packets that were authentic, the last to speak at the end
        self.sources: dict[bytes, None] = {}
        self._ice = ice
        self._addresses: set[Address] = set()  # the caller's
        self._caller = Allowance(FROM_CALLER)
        self._dtls = Allowance(DTLS)
        self._rtcp = Allowance(RTCP)
        self._others = Allowance(FROM_OTHERS)
        self._hosts: dict[str, Allowance] = {}  # of others, the last to send at the end
        self._more = Allowance(MORE_SOURCES)

    def excuse(self, seconds: float) -> None:
        """So long nothing was read, for this process stood still: it does not count as silence of the caller."""
        now = time.monotonic()
        self.heard, self.spoken = min(now, self.heard + seconds), min(now, self.spoken + seconds)

    def came(self, pass_on: PassOn, data: bytes, addr: Address) -> None:
        """Called for each datagram in place of ``pass_on``."""
        now = time.monotonic()
        if not self._is_let_in(data, (addr[0], addr[1]), now):
            self.refused += 1
            return
        try:
            pass_on(data, addr)
        except Exception:  # one that the parser was not made for would close the socket
            self.refused += 1

    def _is_let_in(self, data: bytes, address: Address, now: float) -> bool:
        kind = data[0] if data else 255
        is_stun, is_rtp = kind < 4, 127 < kind < 192
        known = address in self._addresses
        if not (self._caller.take(now) if known else self._takes_of_others(address[0], now)):
            return False
        if not known:
            known = self._is_of_caller(address)
        if is_rtp:
            if len(data) < SHORTEST_RTP:
                return False
            is_rtcp = _is_rtcp(data)
            if is_rtcp and known and not self._rtcp.take(now):
                return False
            full = len(self.sources) >= MOST_SOURCES
            if full and _source(data, is_rtcp) not in self.sources and not self._more.has(now):
                return False
        elif is_stun:
            if not known and len(self._addresses) >= MOST_ADDRESSES:
                return False
        elif not (known and 19 < kind < 64 and self._dtls.take(now)):
            return False
        if known:
            self.heard = now
        return True

    def _takes_of_others(self, host: str, now: float) -> bool:
        """Whether one more datagram of a host that is not known to be the caller's is let in."""
        share = self._hosts.pop(host, None) or Allowance(FROM_ONE, now=now)
        while len(self._hosts) >= MOST_HOSTS:
            del self._hosts[next(iter(self._hosts))]
        self._hosts[host] = share
        return share.take(now) and self._others.take(now)

    def _is_taken(self, source: bytes) -> bool:
        """Whether one of whom an authentic packet came may speak; the one silent for longest makes room."""
        known = source in self.sources
        if not known and len(self.sources) >= MOST_SOURCES:
            if not self._more.take(time.monotonic()):
                self.refused += 1
                return False
            del self.sources[next(iter(self.sources))]
        self.sources.pop(source, None)
        self.sources[source] = None
        return True

    def _is_of_caller(self, address: Address) -> bool:
        """Look among the candidates, which checks from new addresses add to."""
        self._addresses = {(c._network_host, c.port) for c in self._ice._remote_candidates}
        return address in self._addresses

    def install(self, dtls: RTCDtlsTransport) -> None:
        """Stand before the sockets that are open, and behind decryption, where sources are known to be real."""
        self._ice._queue = Inbox()
        for protocol in self._ice._protocols:
            came = partial(self.came, protocol.datagram_received)
            protocol.datagram_received = came  # type: ignore[method-assign]
        receive, rtp, rtcp = dtls._recv_next, dtls._handle_rtp_data, dtls._handle_rtcp_data

        async def guarded_receive() -> None:
            try:
                await receive()
            except ConnectionError:
                raise
            # nothing that comes from outside may end the reader, and with it the call
            except Exception as error:
                self.faults += 1
                if self.faults > MOST_FAULTS:
                    raise
                if self.faults == 1:
                    logger.warning("aiortc fails at a datagram, which is dropped: %r", error)

        async def noted_rtp(data: bytes, arrival_time_ms: int) -> None:
            self.spoken = time.monotonic()
            if self._is_taken(_source(data, is_rtcp=False)):
                await rtp(data, arrival_time_ms=arrival_time_ms)

        async def noted_rtcp(data: bytes) -> None:
            if not self._is_taken(_source(data, is_rtcp=True)):
                return
            if _is_crowded(data) or _asks_again(data):
                self.refused += 1
            # aiortc's receiver would end at a BYE for good, though senders that pause say it, too.
            elif rest := b"".join(packet for packet in _packets(data) if packet[1] != BYE):
                await rtcp(rest)

        dtls._recv_next = guarded_receive  # type: ignore[method-assign]
        dtls._handle_rtp_data = noted_rtp  # type: ignore[method-assign]
        dtls._handle_rtcp_data = noted_rtcp  # type: ignore[method-assign]


def install(dtls: RTCDtlsTransport) -> Guard | None:
    """Put a :class:`Guard` before the transport of a connection that has gathered its candidates.

    Returns None, with a warning, where aiortc or aioice is not built as it must be for that; a call is then as
    open as aiortc leaves it.
    """
    ice = getattr(dtls.transport, "_connection", None)
    missing = lacking(ice, _ICE)
    missing += [name for name in _DTLS if not inspect.iscoroutinefunction(getattr(dtls, name, None))]
    protocols = getattr(ice, "_protocols", [])
    if not all(callable(getattr(protocol, "datagram_received", None)) for protocol in protocols):
        missing.append("datagram_received")
    if not hasattr(aioice.Candidate.from_sdp("1 1 udp 1 127.0.0.1 9 typ host"), "_network_host"):
        missing.append("address of a candidate")
    if not fits(missing, "our guard", "calls go without"):
        return None
    assert ice is not None
    guard = Guard(ice)
    guard.install(dtls)
    return guard


def _is_rtcp(data: bytes) -> bool:
    return 192 <= data[1] <= 223  # RFC 5761, 4


def _is_crowded(data: bytes) -> bool:
    return next(islice(_packets(data), MOST_REPORTS, None), None) is not None


def _asks_again(data: bytes) -> bool:
    """Whether a generic NACK is among RTCP packets (RFC 4585, 6.2.1), which no answer for audio agrees to.

    aiortc would send again all that it names, which is 5000 packets for one.
    """
    return any(packet[1] == RTPFB and packet[0] & 31 == NACK for packet in _packets(data))


def _packets(data: bytes) -> Iterator[bytes]:
    """The RTCP packets in a datagram (RFC 3550, 6.1); the last may be cut off."""
    while len(data) >= 4:
        length = 4 + 4 * int.from_bytes(data[2:4], "big")
        yield data[:length]
        data = data[length:]


def _source(data: bytes, is_rtcp: bool) -> bytes:
    return data[4:8] if is_rtcp else data[8:12]
