"""The other side of WHIP and WHEP: publish a track at a server's endpoint, or listen at one."""

import logging
from collections.abc import Mapping
from typing import Self
from urllib.parse import urljoin

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

SDP = "application/sdp"

logger = logging.getLogger(__name__)


class EndpointError(ConnectionError):
    """An endpoint has refused an offer; ``status`` of its answer."""

    def __init__(self, url: str, status: int, text: str) -> None:
        super().__init__(f"{url} answered {status}: {text[:200]}")
        self.status = status


class WhipSession:
    """What a connection with its tracks or transceivers has at an endpoint; :meth:`end` gives it back."""

    def __init__(self, resource: str, headers: Mapping[str, str]) -> None:
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
        sdp = connection.localDescription.sdp
        async with http.post(url, data=sdp, headers={"Content-Type": SDP, **headers}) as answer:
            text = await answer.text()
            if answer.status != 201:
                raise EndpointError(url, answer.status, text)
            # Location may be missing in what is not quite WHIP; then there is nothing to delete.
            resource = answer.headers.get("Location", "")
            session = cls(urljoin(str(answer.url), resource) if resource else "", headers)
        try:
            await connection.setRemoteDescription(RTCSessionDescription(text, "answer"))
        except BaseException:
            await session.end(http)
            raise
        return session

    async def end(self, http: aiohttp.ClientSession) -> None:
        """Delete the resource, if there is one still."""
        if self.resource:
            try:
                async with http.delete(self.resource, headers=self._headers):
                    pass
            except (aiohttp.ClientError, TimeoutError):
                logger.info("a session could not be deleted", exc_info=True)


def connection() -> RTCPeerConnection:
    """A connection that asks no server for its address."""
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))
