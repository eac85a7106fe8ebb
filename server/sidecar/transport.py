"""How messages of Janus's API reach it: a WebSocket, or HTTP with long polls. Both carry the same JSON objects.

Over a WebSocket Janus knows at once that a client has gone, and frees what it held; over HTTP after its
``session_timeout``, 60 s unless configured.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

SUBPROTOCOL: Final = "janus-protocol"
POLL_TIME: Final = 45.0  # s; Janus answers a poll after 30 s when nothing has happened
SEND_TIME: Final = 10.0  # s
MOST_EVENTS: Final = 20  # in the answer to one poll
LARGEST_MESSAGE: Final = 1 << 20  # bytes; what a room of a hundred publishers lists is a tenth of it

Message = Mapping[str, Any]


class Transport(ABC):
    """A way to Janus. What goes wrong with it raises ``OSError``, ``aiohttp.ClientError`` or ``ValueError``."""

    @abstractmethod
    async def send(self, message: Message) -> Sequence[Message]:
        """Send a request; returns what was answered by the same way, the rest comes with :meth:`receive`."""

    @abstractmethod
    async def receive(self, session: int, authorization: Message) -> Sequence[Message]:
        """Wait for messages of the session."""


class WebSocket(Transport):
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, message: Message) -> Sequence[Message]:
        await self._socket.send_json(message)
        return ()

    async def receive(self, session: int, authorization: Message) -> Sequence[Message]:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError("Janus has closed the connection")
        return (message.json(),)


class LongPolls(Transport):
    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url.rstrip("/")

    async def send(self, message: Message) -> Sequence[Message]:
        path = [str(message[key]) for key in ("session_id", "handle_id") if key in message]
        timeout = aiohttp.ClientTimeout(SEND_TIME)
        with _without_url():
            async with self._http.post("/".join([self._url, *path]), json=message, timeout=timeout) as answer:
                answer.raise_for_status()
                return (await answer.json(),)

    async def receive(self, session: int, authorization: Message) -> Sequence[Message]:
        query = {"maxev": str(MOST_EVENTS), **authorization}
        timeout = aiohttp.ClientTimeout(POLL_TIME)
        with _without_url():
            async with self._http.get(f"{self._url}/{session}", params=query, timeout=timeout) as answer:
                answer.raise_for_status()
                events = await answer.json()
        return events if isinstance(events, list) else (events,)


@contextmanager
def _without_url() -> Iterator[None]:
    """Errors of an answer without its URL, which holds secrets."""
    try:
        yield
    except aiohttp.ClientResponseError as error:
        raise ConnectionError(f"Janus has answered {error.status}: {error.message}") from None


def checked_url(url: str) -> str:
    """``url`` if it is one that :func:`connected` takes, else ``ValueError``."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise ValueError(f"url must be ws://, wss://, http:// or https:// and a host, not {url!r}")
    return url


async def connected(http: aiohttp.ClientSession, url: str) -> Transport:
    """A way to the Janus at ``url``; it ends with ``http``."""
    if urlsplit(url).scheme in ("http", "https"):
        return LongPolls(http, url)
    with _without_url():
        socket = await http.ws_connect(url, protocols=[SUBPROTOCOL], max_msg_size=LARGEST_MESSAGE)
    return WebSocket(socket)
