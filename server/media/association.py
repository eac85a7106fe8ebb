"""Packets of a data channel that aiortc must not see: some keep it busy for seconds or for ever, or fill the memory.

A parameter that says that it is 0 bytes long is read again and again; a SACK of 1200 bytes may name 20 million
packets, which are counted one by one; 285 heartbeats fit into one packet, and each is answered by one; fragments are
kept, without bound, until the rest of their message comes. None comes from a peer that means well.
"""

import inspect
from collections import Counter
from struct import unpack_from
from typing import Any, Final

from aiortc import RTCSctpTransport

from .fitting import fits, lacking

COMMON_HEADER: Final = 12  # bytes (RFC 9260, 3.1)
DATA: Final = 0  # type of the chunk that a packet has many of (RFC 9260, 3.3.1)
MOST_CHUNKS: Final = 64  # of data in a packet; the shortest that 1200 bytes hold are 59
MOST_ALIKE: Final = 2  # chunks of any other type in a packet
MOST_PARAMETERS: Final = 16  # of a chunk
SACK: Final = 3  # type of its chunk (RFC 9260, 3.3.4)
PARAMETERS_AT: Final = {1: 16, 2: 16, 4: 0, 5: 0, 6: 0, 9: 0, 130: 0}  # in the value of a chunk, by its type
MOST_GAPS: Final = 4096  # packets that a SACK may name; we send some 10 a second
MOST_FRAGMENTS: Final = 1024  # that wait for the rest of their message, or for those before
MOST_STREAMS: Final = 64  # a caller may open fewer channels
_NEEDED: Final = {"_advertised_rwnd": int, "_sack_misordered": set, "_inbound_streams": dict}


def is_harmless(packet: bytes) -> bool:
    """Whether the lengths of all chunks and parameters bring a reader on, there are no more of them than have a use,
    and no SACK names what was never sent."""
    at = COMMON_HEADER
    found: Counter[int] = Counter()
    while at + 4 <= len(packet):
        kind, _, length = unpack_from("!BBH", packet, at)
        found[kind] += 1
        if length < 4 or found[kind] > (MOST_CHUNKS if kind == DATA else MOST_ALIKE):
            return False
        value = packet[at + 4 : at + length]
        if kind == SACK and _named(value) > MOST_GAPS:
            return False
        if kind in PARAMETERS_AT and not _has_end(value, PARAMETERS_AT[kind]):
            return False
        at += _padded(length)
    return True


def _named(sack: bytes) -> int:
    gaps = unpack_from("!H", sack, 8)[0] if len(sack) >= 10 else 0
    blocks = (unpack_from("!HH", sack, at) for at in range(12, min(12 + 4 * gaps, len(sack) - 3), 4))
    return sum(max(0, end - start + 1) for start, end in blocks)


def _has_end(value: bytes, at: int) -> bool:
    for _ in range(MOST_PARAMETERS + 1):
        if at + 4 > len(value):
            return True
        length = unpack_from("!H", value, at + 2)[0]
        if length < 4:
            return False
        at += _padded(length)
    return False


def _padded(length: int) -> int:
    return (length + 3) // 4 * 4


def install(sctp: RTCSctpTransport) -> None:
    """Check what comes for ``sctp``, and hang up on a caller that fills its memory.

    Does nothing, with a warning, where aiortc is not built as it must be for that.
    """
    missing = lacking(sctp, _NEEDED)
    handle: Any = getattr(sctp, "_handle_data", None)
    if not inspect.iscoroutinefunction(handle):
        missing.append("_handle_data")
    if not fits(missing, "our check of data channels", "they go unchecked"):
        return

    async def checked(data: bytes) -> None:
        if is_harmless(data):
            await handle(data)
            if not _fits(sctp):
                raise ConnectionError("the caller fills the memory of its data channels")

    sctp._handle_data = checked  # type: ignore[method-assign]


def _fits(sctp: RTCSctpTransport) -> bool:
    streams = sctp._inbound_streams
    waiting = sum(len(stream.reassembly) for stream in streams.values())
    return (
        sctp._advertised_rwnd > 0
        and len(streams) <= MOST_STREAMS
        and max(waiting, len(sctp._sack_misordered)) <= MOST_FRAGMENTS
    )
