"""A bad network between a caller and the server: a UDP relay that both take for the other end.

It stands where a NAT would. The caller's offer reaches the server with the relay's address in place of the
caller's, and the answer reaches the caller likewise, so that all datagrams pass through here, STUN and DTLS
included. Only those of the way to the server meet the weather unless told otherwise: what happens on the way
back is for the listener's own jitter buffer.
"""

import asyncio
import heapq
import itertools
import re
from collections.abc import Callable
from typing import Final, TypeAlias

from percepnet.framing import SAMPLE_RATE
from server.loadtest.wire import Tape, is_rtp

from .conditions import Weather
from .fate import Fates

Address: TypeAlias = tuple[str, int]

CANDIDATE: Final = re.compile(
    r"a=candidate:(\S+) (\d+) udp (\d+) (\d+\.\d+\.\d+\.\d+) (\d+) typ host.*", re.IGNORECASE
)
LINGERING: Final = 0.1  # s
MOST_WAITING: Final = 1000  # datagrams of one way that are on their way


class Relay:
    """The relay of one call in ``weather``, to be closed after it. ``tape`` is told what gets lost."""

    def __init__(self, weather: Weather, seed: str, tape: Tape | None = None) -> None:
        self._weather = weather
        self._tape = tape or Tape()
        self._caller: Address | None = None
        self._server: Address | None = None
        self._near: asyncio.DatagramTransport | None = None  # what the caller sees
        # what the server sees; then what it sees after a rebinding
        self._far: list[asyncio.DatagramTransport] = []
        self._there = _Way(weather, f"{seed} there", self._to_server)
        self._back = _Way(weather if weather.both_ways else Weather(), f"{seed} back", self._to_caller)

    async def offered(self, sdp: str) -> str:
        """The caller's offer as the server shall see it."""
        found = CANDIDATE.search(sdp)
        if found is None:
            raise ConnectionError("the caller has no IPv4 address to put a relay before")
        self._caller = (found[4], int(found[5]))
        self._near = await _listen(found[4], self._from_caller)
        for _ in range(1 + self._weather.rebind):
            self._far.append(await _listen(found[4], self._from_server))
        return _readdressed(sdp, self._far[0])

    def answered(self, sdp: str) -> str:
        """The server's answer as the caller shall see it."""
        found = CANDIDATE.search(sdp)
        if found is None or self._near is None:
            raise ConnectionError("the server's answer has no IPv4 address")
        self._server = (found[4], int(found[5]))
        return _readdressed(sdp, self._near)

    async def close(self) -> None:
        """Close it once what is on its way has come, the word that the call is over above all."""
        await asyncio.sleep(LINGERING)
        self._there.close()
        self._back.close()
        for transport in (*self._far, *([self._near] if self._near else [])):
            transport.close()

    def _from_caller(self, data: bytes, sender: Address) -> None:
        self._caller = sender
        at = None
        if is_rtp(data):
            at = self._tape.sent.time(data) / SAMPLE_RATE
            if self._weather.rebind and at >= self._weather.begin and len(self._far) > 1:
                self._far.pop(0).close()  # and what the server sends there gets lost
        if self._there.take(data, at) and at is not None:
            self._tape.lost.add(self._tape.sent.time(data))

    def _from_server(self, data: bytes, sender: Address) -> None:
        # Its own clock is not the caller's: what the server sends is as old as what the caller sent last.
        self._back.take(data, self._there.at if is_rtp(data) else None)

    def _to_server(self, data: bytes) -> None:
        if self._server is not None and not self._far[0].is_closing():
            self._far[0].sendto(data, self._server)

    def _to_caller(self, data: bytes) -> None:
        if self._caller is not None and self._near is not None and not self._near.is_closing():
            self._near.sendto(data, self._caller)


class _Way:
    """One direction. Datagrams stay in order unless their fate says otherwise, as in a queue of the network."""

    def __init__(self, weather: Weather, seed: str, send: Callable[[bytes], None]) -> None:
        self.at = -1.0  # s since the first audio, as the last packet of audio had it
        # whose fates shall not depend on how much else there is
        self._audio = Fates(weather, f"{seed} audio")
        self._rest = Fates(weather, f"{seed} rest")
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[float, int, bytes]] = []  # a heap: due at, number
        self._numbers = itertools.count()
        self._last = 0.0  # s of the loop, when the last datagram that kept its place is due
        self._timer: asyncio.TimerHandle | None = None

    def take(self, data: bytes, at: float | None) -> bool:
        """Let ``data`` meet its fate; True if that is to get lost. ``at`` (s) for audio, None for the rest."""
        if at is not None:
            self.at = at
        fate = (self._rest if at is None else self._audio).next(self.at)
        now = self._loop.time()
        for delay in fate.delays:
            due = now + delay
            if not fate.overtaken:
                due = self._last = max(self._last, due)
            if due <= now and not self._waiting:
                self._send(data)
            elif len(self._waiting) < MOST_WAITING:
                heapq.heappush(self._waiting, (due, next(self._numbers), data))
        self._schedule()
        return fate.is_lost

    def close(self) -> None:
        self._waiting.clear()
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._waiting[0][0], self._deliver) if self._waiting else None

    def _deliver(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            self._send(heapq.heappop(self._waiting)[2])
        self._schedule()


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, Address], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._take(data, addr)


async def _listen(host: str, take: Callable[[bytes, Address], None]) -> asyncio.DatagramTransport:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Ear(take), local_addr=(host, 0))
    return transport


def _readdressed(sdp: str, transport: asyncio.DatagramTransport) -> str:
    """``sdp`` with the address of ``transport`` as the only candidate of each section."""
    host, port = transport.get_extra_info("sockname")[:2]
    lines: list[str] = []
    placed = False
    for line in sdp.splitlines():
        placed = placed and not line.startswith("m=")
        if line.startswith("a=candidate:"):
            found = CANDIDATE.fullmatch(line)
            if found is None or placed:
                continue
            line = f"a=candidate:{found[1]} {found[2]} udp {found[3]} {host} {port} typ host"
            placed = True
        lines.append(line)
    return "\r\n".join(lines) + "\r\n"
