"""A caller whose address changes in the middle of a call: a NAT that forgets, a phone that leaves the WLAN.

aioice takes what comes from anywhere, but goes on sending to where the caller was; only a browser's next check tells
it otherwise, some seconds later, and aiortc's checks never do. Here audio from a new address makes us ask that address
at once, with a check of ICE (RFC 8445, 7.2), which only the caller can answer because it takes both passwords. The
answer moves the call there. A stranger who sends as from somewhere has that place asked twice a second at most, and
keeps nobody from being asked: each host is asked once at a time, and addresses that ICE knows have their own turn.
"""

import asyncio
import inspect
import logging
import time
from functools import partial
from typing import Any, Final, Protocol

import aioice
from aioice import stun
from aioice.ice import CandidatePair
from aiortc import RTCIceTransport

from ..waiting import cancelled
from .fitting import fits, lacking

ASKED_EVERY: Final = 0.5  # s, among those that ICE knows, and among others
REPETITIONS: Final = 2  # of a check that is not answered; within 3.5 s, in which others are asked, too
COMPONENT: Final = 1  # RTP and RTCP, together

Address = tuple[str, int]

logger = logging.getLogger(__name__)


class PassOn(Protocol):
    def __call__(self, data: bytes, addr: Address) -> None: ...


class Rebinding:
    """Follows the caller of ``ice``, a connection that has gathered its candidates."""

    def __init__(self, ice: aioice.Connection) -> None:
        self.moves = 0
        self._ice = ice
        # Of those that ICE knows, and of others: when one was asked last, s of time.monotonic(); which hosts are.
        self._asked = {True: -ASKED_EVERY, False: -ASKED_EVERY}
        self._asking: dict[tuple[bool, str], asyncio.Task[None]] = {}
        for protocol in ice._protocols:
            came = partial(self._came, protocol.datagram_received, protocol)
            protocol.datagram_received = came  # type: ignore[method-assign]

    async def close(self) -> None:
        self._asked = {True: float("inf"), False: float("inf")}
        await cancelled(*self._asking.values())

    def _came(self, pass_on: PassOn, protocol: Any, data: bytes, addr: Any) -> None:
        """Called for each datagram in place of ``pass_on``."""
        pair = self._ice._nominated.get(COMPONENT)
        if pair is not None and data and 127 < data[0] < 192:  # RTP and RTCP (RFC 7983, 7)
            address = (addr[0], addr[1])
            moved = address != pair.remote_addr or protocol is not pair.protocol
            if moved:
                self._doubt(protocol, address)
        pass_on(data, addr)

    def _doubt(self, protocol: Any, address: Address) -> None:
        """Ask an address whether it is the caller's, if it is its turn."""
        known = any((c._network_host, c.port) == address for c in self._ice._remote_candidates)
        who, now = (known, address[0]), time.monotonic()
        if who not in self._asking and now - self._asked[known] >= ASKED_EVERY:
            self._asked[known] = now
            self._asking[who] = asyncio.create_task(self._ask(protocol, address), name="check of an address")
            self._asking[who].add_done_callback(lambda _: self._asking.pop(who))

    async def _ask(self, protocol: Any, address: Address) -> None:
        ice = self._ice
        pair = next((p for p in ice._check_list if p.protocol is protocol and p.remote_addr == address), None)
        if pair is None:
            candidate = aioice.Candidate(
                foundation="moved",
                component=COMPONENT,
                transport="udp",
                priority=ice._nominated[COMPONENT].remote_candidate.priority,
                host=address[0],
                port=address[1],
                type="prflx",
            )
            pair = CandidatePair(protocol, candidate)
        key = (ice.remote_password or "").encode()
        try:
            request = ice.build_request(pair, nominate=False)
            response, sender = await protocol.request(
                request, address, integrity_key=key, retransmissions=REPETITIONS
            )
        except stun.TransactionError:
            return
        if sender == address and response.check_message_integrity(key):
            if pair not in ice._check_list:
                ice._remote_candidates.append(pair.remote_candidate)
                ice._check_list.append(pair)
            pair.nominated, pair.state = True, CandidatePair.State.SUCCEEDED
            ice._nominated[COMPONENT] = pair
            self.moves += 1
            logger.info("a caller has moved")


def install(transport: RTCIceTransport) -> Rebinding | None:
    """Follow the caller of ``transport``, which has gathered its candidates.

    Returns None, with a warning, where aioice is not built as it must be for that: a call then ends when its
    caller's address changes, or waits for the caller to notice.
    """
    ice = getattr(transport, "_connection", None)
    needed = {"_nominated": dict, "_protocols": list, "_remote_candidates": list, "_check_list": list}
    missing = lacking(ice, needed)
    missing += ["build_request"] if not callable(getattr(ice, "build_request", None)) else []
    missing += ["check_message_integrity"] if not hasattr(stun.Message, "check_message_integrity") else []
    for protocol in getattr(ice, "_protocols", []):
        if not inspect.iscoroutinefunction(getattr(protocol, "request", None)):
            missing.append("request")
    missing += [] if isinstance(ice, aioice.Connection) else ["_connection"]
    if not fits(missing, "following callers", "they are not followed"):
        return None
    assert isinstance(ice, aioice.Connection)
    return Rebinding(ice)
