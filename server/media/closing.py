"""Close a connection so that nothing of it runs on, also in the middle of its set-up.

``RTCPeerConnection.close()`` does not wait for its own set-up, a task that nobody else can reach. Where that
is a step behind, it starts sender, receiver, decoder thread or ICE's consent checks after they were stopped,
and these then run for ever. So set-up is awaited and all is stopped once more, which does no harm where it
was stopped.
"""

import asyncio
import logging
from typing import Final

from aiortc import RTCIceTransport, RTCPeerConnection

SETTING_UP: Final = "_RTCIceTransport__start"  # an asyncio.Event, set when ICE has connected or given up
CLOSING_TIME: Final = 5.0  # s that the end of a call waits for its connection to close

_closing: set[asyncio.Task[None]] = set()

logger = logging.getLogger(__name__)


async def end(connection: RTCPeerConnection, of: str) -> None:
    """:func:`close`, and wait for it for ``CLOSING_TIME``. What goes wrong is logged with whose connection it was.

    It is not cut off where it takes longer, or sockets would stay open.
    """
    closed = asyncio.create_task(close(connection), name=f"end of {of}")
    _closing.add(closed)
    closed.add_done_callback(_closing.discard)
    await asyncio.wait([closed], timeout=CLOSING_TIME)
    if not closed.done():
        logger.error("%s takes more than %g s to close", of, CLOSING_TIME)
    elif not closed.cancelled() and (error := closed.exception()) is not None:
        logger.error("%s did not close as it should", of, exc_info=error)


async def close(connection: RTCPeerConnection) -> None:
    """Close ``connection`` and all that its set-up may start meanwhile."""
    transports = _ice_transports(connection)  # before close(), which lets go of some
    await connection.close()
    for transport in transports:
        setting_up = getattr(transport, SETTING_UP, None)
        if isinstance(setting_up, asyncio.Event):
            await setting_up.wait()  # at most the 20 ms between two of ICE's checks, now that it is closed
        if (ice := getattr(transport, "_connection", None)) is not None:
            await ice.close()
    for transceiver in connection.getTransceivers():
        await transceiver.stop()


def _ice_transports(connection: RTCPeerConnection) -> set[RTCIceTransport]:
    holders = [transceiver.receiver for transceiver in connection.getTransceivers()]
    dtls = {holder.transport for holder in holders}
    if connection.sctp is not None:
        dtls.add(connection.sctp.transport)
    return {transport.transport for transport in dtls}
