"""What the server takes as an offer, checked before anything is opened for it.

aiortc answers garbage, or fails in a background task with the connection left open; so an offer that cannot
become a call is turned away here.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Self, TypeAlias

import aioice
from aiortc import RTCIceCandidate, rtp
from aiortc.codecs import CODECS as AIORTCS
from aiortc.sdp import MediaDescription, SessionDescription

from .controls import Controls, checked
from .media import opus
from .sections import Refused, readable, without_refused

LONGEST_SDP: Final = 32 * 1024  # characters; a browser's offer of audio and data takes 3 to 6 thousand
MOST_ALIKE: Final = 64  # lines that say the same of an SDP, candidates for example
LINE: Final = re.compile(r"[a-z]=[A-Za-z0-9-]*")  # what a line says
WAITS_FOR_CANDIDATES: Final = hasattr(aioice.Connection, "_remote_candidates_expected")  # from 0.11 or so on
CODECS: Final = ("audio/opus", "audio/g722", "audio/pcmu", "audio/pcma")
# Codecs that need no a=rtpmap, by payload type (RFC 3551, 6)
STATIC: Final = {codec.payloadType: codec for codec in AIORTCS["audio"] if codec.payloadType in range(35)}
DIGESTS: Final = ("sha-256", "sha-384", "sha-512")
Direction: TypeAlias = Literal["sendrecv", "sendonly", "recvonly"]

# aiortc would answer with a payload type of its own where the caller's is below 96, as it may be (RFC 5761, 4).
rtp.DYNAMIC_PAYLOAD_TYPES = range(128)


class OfferError(ValueError):
    """The offer cannot become a call; the text says why, for the caller to read."""


@dataclass(frozen=True, slots=True)
class Offer:
    sdp: str
    controls: Controls
    opus: Mapping[str, int] = field(default_factory=dict)  # what the caller asks of Opus (RFC 7587, 6.1)
    direction: Direction = "sendrecv"  # of the audio, as the caller sees it
    ufrag: str = ""  # of the caller's ICE
    others: tuple[Refused, ...] = ()  # sections that the caller offers as well; the answer has to refuse them

    @classmethod
    def checked(cls, body: object, *, others_hear: bool = False) -> Self:
        """From the decoded JSON body of ``POST /offer``; raises :class:`OfferError`."""
        if not isinstance(body, Mapping):
            raise OfferError(f"the offer must be a JSON object, not {type(body).__name__}")
        options = {name: value for name, value in body.items() if name not in ("sdp", "type")}
        if body.get("type") != "offer":
            raise OfferError(f'type must be "offer", not {body.get("type")!r}')
        sdp = body.get("sdp")
        if not isinstance(sdp, str):
            raise OfferError("sdp must be a text that is not empty")
        return cls.of_sdp(sdp, options, others_hear=others_hear)

    @classmethod
    def of_sdp(
        cls, sdp: str, options: object, direction: Direction = "sendrecv", *, others_hear: bool = False
    ) -> Self:
        """From an offer whose audio goes in ``direction``, and controls; raises :class:`OfferError`.

        One that goes both ways may be taken for one that goes one way, and becomes that. Where ``others_hear`` what
        is said, the audio has to be Opus, so that it is encoded once for all. DTLS begins with a caller of WHIP or
        WHEP (RFC 9725, 4.4); so it is our certificate, not the caller's, that limits the choice of ciphers.
        """
        session, others = _check_session(sdp, direction, (opus.MIME_TYPE,) if others_hear else CODECS)
        for media in session.media:
            if direction != "sendrecv" and media.dtls is not None and media.dtls.role == "auto":
                media.dtls.role = "client"
        try:
            controls = Controls().merged(checked(options))
        except ValueError as error:
            raise OfferError(str(error)) from None
        ice = session.media[0].ice
        assert ice is not None
        assert ice.usernameFragment is not None
        return cls(str(session), controls, opus.offered(session), direction, ice.usernameFragment, others)


def _check_session(
    sdp: str, direction: Direction, codecs: Collection[str]
) -> tuple[SessionDescription, tuple[Refused, ...]]:
    if not sdp.strip():
        raise OfferError("sdp must be a text that is not empty")
    if len(sdp) > LONGEST_SDP:
        raise OfferError(f"sdp must be at most {LONGEST_SDP} characters, not {len(sdp)}")
    try:
        sdp, others = without_refused(sdp)
    except ValueError as error:
        raise OfferError(str(error)) from None
    # aiortc's parser takes each line of codecs with each of their feedback: 32 thousand characters made 3 s.
    said = (found[0] for line in sdp.splitlines() if (found := LINE.match(line)))
    for kind, lines in Counter(said).items():
        if lines > MOST_ALIKE:
            raise OfferError(f"sdp: at most {MOST_ALIKE} lines {kind}, not {lines}")
    try:
        session = SessionDescription.parse(readable(sdp))
    except Exception as error:  # the parser raises whatever its line of code happens to
        raise OfferError("sdp cannot be parsed") from error
    kinds = [media.kind for media in session.media]
    if kinds.count("audio") != 1:
        raise OfferError(f"sdp must have one audio section, not {kinds.count('audio')}")
    if kinds.count("application") > 1 or len(kinds) > 1 + kinds.count("application"):
        raise OfferError(f"sdp may have one audio and one data section beside video, not {', '.join(kinds)}")
    mids = [media.rtp.muxId for media in session.media] + [other.mid for other in others]
    if not all(mids) or len(set(mids)) != len(mids):
        raise OfferError("sdp: each section needs an a=mid of its own")
    for group in session.group:
        if group.semantic == "BUNDLE" and not set(group.items) <= set(mids):
            raise OfferError(
                f"sdp: a=group:BUNDLE names {', '.join(map(str, group.items))}; there is {', '.join(mids)}"
            )
    session.host = _numeric(session.host)
    for media in session.media:
        _check_transport(media)
        if media.kind == "audio":
            _check_audio(media, direction, codecs)
        elif media.sctp_port is None and media.profile != "DTLS/SCTP":
            raise OfferError("sdp: a=sctp-port is missing in the data section")
    return session, others


def _check_transport(media: MediaDescription) -> None:
    if media.ice is None or not media.ice.usernameFragment or not media.ice.password:
        raise OfferError(f"sdp: a=ice-ufrag or a=ice-pwd is missing in the {media.kind} section")
    fingerprints = media.dtls.fingerprints if media.dtls else []
    if not any(fingerprint.algorithm.lower() in DIGESTS for fingerprint in fingerprints):
        needed = f"a=setup and an a=fingerprint of {', '.join(DIGESTS)}"
        raise OfferError(f"sdp: {needed} must be in the {media.kind} section")
    media.host, media.rtcp_host = _numeric(media.host), _numeric(media.rtcp_host)
    media.ice_candidates = [candidate for candidate in media.ice_candidates if is_usable(candidate)]
    if WAITS_FOR_CANDIDATES:
        # Told that there will be no others, aioice would give up before those come that are found by their own checks.
        media.ice_candidates_complete = False


def _numeric(host: str | None) -> str | None:
    """An address that aiortc can write; names are legal (RFC 8866, 5.7), and ICE needs neither."""
    try:
        return host and str(ipaddress.ip_address(host))
    except ValueError:
        return "0.0.0.0"


def is_usable(candidate: RTCIceCandidate) -> bool:
    """Whether a caller may be found there; one that is not is passed over (RFC 8839, 5.1; RFC 9725, 4.3).

    Names are not: aioice would ask the network for those of multicast DNS, and a caller wait a second for its answer
    where it is not the caller's. Whoever hides its address so, or has told none, is found by its own checks.
    """
    try:
        address = ipaddress.ip_address(candidate.ip)
    except ValueError:
        return False
    reachable = not (address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255")
    return reachable and candidate.protocol.lower() == "udp" and 0 < candidate.port < 65536


def _check_audio(media: MediaDescription, direction: Direction, codecs: Collection[str]) -> None:
    found = media.direction or "sendrecv"  # the default of RFC 8866, 6.7; aiortc has none
    if found not in (direction, "sendrecv"):
        raise OfferError(f"sdp: the audio must be {direction}, not {found}")
    media.direction = direction
    if not media.rtcp_mux:
        raise OfferError("sdp: a=rtcp-mux is missing in the audio section")
    if media.rtcp_port is None or media.rtcp_host is None:
        media.rtcp_port, media.rtcp_host = 9, "0.0.0.0"  # without them aiortc leaves out a=rtcp-mux as well
    # One above asks for another (RFC 8285, 6), which aiortc does not know: its sender ends.
    extensions = media.rtp.headerExtensions
    media.rtp.headerExtensions = [extension for extension in extensions if 0 < extension.id < 256]
    named = STATIC | {codec.payloadType: codec for codec in reversed(media.rtp.codecs)}
    # As m= has them: what is named beside is not offered (RFC 8866, 5.14), and aiortc would answer with it.
    offered = [named[number] for number in dict.fromkeys(media.fmt) if number in named]
    media.rtp.codecs = [codec for codec in offered if codec.mimeType.lower() in codecs]
    media.fmt = [codec.payloadType for codec in media.rtp.codecs]
    if not media.fmt:
        found = ", ".join(codec.mimeType.lower() for codec in offered) or "none"
        raise OfferError(f"sdp: none of the codecs {', '.join(codecs)} among {found}")
