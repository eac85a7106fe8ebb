"""A connection to the server as a caller has it: offer, answer, hanging up."""

import json
import time
from collections.abc import Mapping

import aiohttp
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCPeerConnection,
    RTCRtpTransceiver,
    RTCSessionDescription,
)

from server.media import closing
from server.weather.relay import Relay


class Refused(ConnectionError):
    """The server has answered an offer with an error; ``retry_after`` (s) as it said, for 429 and 503."""

    def __init__(self, status: int, reason: str, retry_after: float | None) -> None:
        super().__init__(f"the server said {status}: {reason}")
        self.status = status
        self.retry_after = retry_after


class Line:
    """One call to the server at ``url`` that sends ``track``, if one is given; connected soon after :meth:`call`.

    ``options`` go into the offer: enabled, attenuation_limit_db, postfilter. ``relay`` is the network between;
    ``configuration`` the caller's own STUN and TURN servers, none by default.
    """

    def __init__(
        self,
        url: str,
        track: MediaStreamTrack | None = None,
        options: Mapping[str, object] | None = None,
        relay: Relay | None = None,
        configuration: RTCConfiguration | None = None,
    ) -> None:
        self.id = ""
        self.offered = 0.0  # s of time.monotonic(), when the offer was sent
        self.url = url.rstrip("/")
        self.path = "/offer"
        self.connection = RTCPeerConnection(configuration or RTCConfiguration(iceServers=[]))
        self._options = dict(options or {})
        self._relay = relay
        self.connection.addTransceiver(track or "audio")

    @property
    def transceiver(self) -> RTCRtpTransceiver:
        (transceiver,) = self.connection.getTransceivers()
        return transceiver

    @property
    def is_over(self) -> bool:
        """The other end has closed it, or cannot be reached any more."""
        return self.connection.connectionState in ("closed", "failed")

    async def call(self, http: aiohttp.ClientSession | None = None) -> None:
        """Offer and take the answer; raises :class:`Refused`. The connection comes about afterwards."""
        if http is None:
            async with aiohttp.ClientSession() as http:
                return await self.call(http)
        await self.connection.setLocalDescription(await self.connection.createOffer())
        local = self.connection.localDescription
        sdp = local.sdp if self._relay is None else await self._relay.offered(local.sdp)
        body = {"sdp": sdp, "type": local.type, **self._options}
        self.offered = time.monotonic()
        async with http.post(self.url + self.path, json=body) as response:
            text = await response.text()
            if response.status != 201:
                raise Refused(response.status, _reason(text), _seconds(response.headers.get("Retry-After")))
        answer = json.loads(text)
        self.id = answer["id"]
        sdp = answer["sdp"] if self._relay is None else self._relay.answered(answer["sdp"])
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, answer["type"]))
        return None

    async def hang_up(self) -> None:
        """Close this end; the server learns of it through DTLS."""
        await closing.close(self.connection)
        if self._relay is not None:
            await self._relay.close()


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, LookupError, TypeError):
        return text[:200]


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After header; None for none, and for a date."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None
