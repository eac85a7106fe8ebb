"""The other side of WHIP and WHEP: publish a track at a server's endpoint, or listen at one."""

import logging
from collections.abc import Mapping
from typing import Self

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription
from yarl import URL

from .media import guard

SDP = "application/sdp"

logger = logging.getLogger(__name__)


class EndpointError(ConnectionError):
    """An endpoint has refused an offer; ``status`` of its answer."""

    def __init__(self, url: URL, status: int, text: str) -> None:
        super().__init__(f"{url.origin()} answered {status}: {text[:200]}")  # the rest of it may be a key
        self.status = status


class WhipSession:
    """What a connection with its tracks or transceivers has at an endpoint; :meth:`end` gives it back."""

    def __init__(self, resource: URL | None, headers: Mapping[str, str]) -> None:
        self.resource = resource
        self._headers = dict(headers)

    @classmethod
    async def open(
        cls, http: aiohttp.ClientSession, url: str, connection: RTCPeerConnection, token: str | None = None
    ) -> Self:
        """Offer and take the answer; raises :class:`EndpointError`, ``aiohttp.ClientError`` or ``TimeoutError``.

        Also whatever aiortc raises at an answer that it does not take; the resource is given back then. The
        connection stays its owner's to close.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        await connection.setLocalDescription(await connection.createOffer())
        for dtls in {transceiver.sender.transport for transceiver in connection.getTransceivers()}:
            guard.install(dtls)
        sdp = connection.localDescription.sdp
        async with http.post(url, data=sdp, headers={"Content-Type": SDP, **headers}) as answer:
            text = await answer.text()
            if answer.status != 201:
                raise EndpointError(answer.url, answer.status, text)
            # Location may be missing in what is not quite WHIP; then there is nothing to delete.
            location = answer.headers.get("Location", "")
            resource = answer.url.join(URL(location)) if location else None
            if resource is not None and resource.origin() != answer.url.origin():
                logger.warning("%s names a session at another server: it is left alone", answer.url.origin())
                resource = None
            if answer.history and answer.history[0].url.origin() != answer.url.origin():
                headers = {}  # as aiohttp itself leaves the token out where it is sent on to another server
            session = cls(resource, headers)
        try:
            await connection.setRemoteDescription(
                RTCSessionDescription(_directed(text, connection), "answer")
            )
        except BaseException:
            await session.end(http)
            raise
        return session

    async def end(self, http: aiohttp.ClientSession) -> None:
        """Delete the resource, if there is one still."""
        if self.resource is not None:
            try:
                async with http.delete(self.resource, headers=self._headers):
                    pass
            except (aiohttp.ClientError, TimeoutError) as error:
                logger.info("a session could not be deleted: %s", told(error))


def told(error: Exception) -> str:
    """What went wrong; not in aiohttp's words where they have the whole address, which may hold a key."""
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return type(error).__name__
    return str(error) or type(error).__name__


def _directed(sdp: str, connection: RTCPeerConnection) -> str:
    """An answer with the direction that a section without one has (RFC 8866, 6.7): aiortc would take it for none."""
    sections = SessionDescription.parse(sdp).media
    if len(sections) != 1 or sections[0].direction:
        return sdp  # also what answers no offer of one section: aiortc says so
    (transceiver,) = connection.getTransceivers()
    direction = {"sendonly": "recvonly", "recvonly": "sendonly"}[transceiver.direction]
    return f"{sdp.rstrip()}\r\na={direction}\r\n"


def connection() -> RTCPeerConnection:
    """A connection that asks no server for its address."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))
