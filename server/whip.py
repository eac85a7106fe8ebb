"""WHIP (RFC 9725) in and WHEP (draft-ietf-wish-whep-02) out, and what both ask of a call's resource.

``POST /whip/{room}`` publishes a voice in a room, ``POST /whep/{room}`` listens to it enhanced. Both take an SDP
offer and answer 201 with the answer, the call as ``Location``, its ``ETag`` and the ICE servers as ``Link``. The
resource is that of any call; ``PATCH`` with a fragment of SDP adds addresses to it (trickle ICE). ICE does not
restart. The publisher's controls may stand in its query: ``/whip/desk?attenuation_limit_db=20``.
"""

import json
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiortc import RTCIceCandidate
from aiortc.sdp import candidate_from_sdp

from . import iceservers
from .call import Call, TooManyCalls
from .calls import Calls
from .config import Config
from .controls import Changes, unknown
from .edge import admitted, body
from .offer import MOST_ALIKE, Offer, OfferError, is_usable
from .problems import problem
from .rooms import NobodyPublishes, RoomTaken, Seat, checked_name
from .values import IceServer

SDP: Final = "application/sdp"
FRAGMENT: Final = "application/trickle-ice-sdpfrag"
LISTEN_AGAIN: Final = 2  # s after which a listener may ask again whether somebody publishes


async def publish(request: web.Request, calls: Calls, config: Config) -> web.Response:
    with admitted(request) as caller:
        room = _room(request)
        options = _controls(request)
        offer = await _offer(request, lambda sdp: Offer.of_sdp(sdp, options, "sendonly", others_hear=True))
        return await _created(calls, config, offer, caller, lambda: calls.rooms.publish(room))


async def listen(request: web.Request, calls: Calls, config: Config) -> web.Response:
    with admitted(request) as caller:
        room = _room(request)
        if _controls(request):
            raise problem(web.HTTPBadRequest, "a listener has no controls: those are the publisher's")
        offer = await _offer(request, lambda sdp: Offer.of_sdp(sdp, {}, "recvonly", others_hear=True))
        return await _created(calls, config, offer, caller, lambda: calls.rooms.listen(room))


async def trickle(request: web.Request, call: Call) -> web.Response:
    """More addresses of a caller: 204; 428 and 412 as RFC 9725 (4.3) has them; 422 for an ICE restart."""
    tags = request.headers.getall("If-Match", [])
    found = {tag.strip() for tags_of_line in tags for tag in tags_of_line.split(",")}
    if found & {"*", '"*"'}:  # the second as in the draft's example
        raise problem(web.HTTPUnprocessableEntity, "ICE restarts are not supported")
    if not found and call.seat.role != "listener":
        # npm's whip-whep sends none when it listens; as ICE never restarts, there is no doubt what is meant
        raise problem(web.HTTPPreconditionRequired, "If-Match must hold the ETag of the call")
    if found and call.etag not in found:
        raise problem(web.HTTPPreconditionFailed, f"If-Match must be {call.etag}, not {', '.join(tags)}")
    try:
        for candidate in _candidates((await body(request)).decode(), call):
            await call.add_candidate(candidate)
    except ValueError as error:
        raise problem(web.HTTPBadRequest, str(error)) from error
    return web.Response(status=204)


def endpoint() -> web.Response:
    """The answer to ``GET`` and ``OPTIONS`` at an endpoint: there is nothing to see, but offers are taken."""
    return web.Response(status=204, headers={"Accept-Post": SDP, "Allow": "OPTIONS, GET, POST"})


async def _created(
    calls: Calls, config: Config, offer: Offer, caller: str, seated: Callable[[], Seat]
) -> web.Response:
    try:
        call = await calls.open(offer, caller, seated)
    except OfferError as error:
        raise problem(web.HTTPBadRequest, str(error)) from error
    except RoomTaken as error:
        raise problem(web.HTTPConflict, str(error)) from error
    except NobodyPublishes as error:
        raise problem(web.HTTPConflict, str(error), retry_after=LISTEN_AGAIN) from error
    except TooManyCalls as error:
        raise problem(web.HTTPServiceUnavailable, str(error), retry_after=error.retry_after) from error
    assert call.answer is not None
    answer = web.Response(status=201, body=call.answer.sdp.encode(), content_type=SDP)
    answer.headers.update({"Location": f"/calls/{call.id}", "ETag": call.etag, "Accept-Patch": FRAGMENT})
    for server in iceservers.of(config):
        answer.headers.add("Link", link(server))
    return answer


def link(server: IceServer) -> str:
    """An ICE server as a ``Link`` header has it (RFC 9725, 4.6)."""
    text = f'<{server.url}>; rel="ice-server"'
    if server.username is not None:
        account = {"username": server.username, "credential": str(server.credential)}
        text += "".join(f"; {name}={quoted(value)}" for name, value in account.items())
        text += '; credential-type="password"'
    return text


def quoted(text: str) -> str:
    """A quoted string of a header (RFC 9110, 5.6.4)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _room(request: web.Request) -> str:
    try:
        return checked_name(request.match_info["room"])
    except ValueError as error:
        raise problem(web.HTTPBadRequest, str(error)) from error


def _controls(request: web.Request) -> dict[str, object]:
    """The query, each value read as JSON: numbers, true, false, null."""
    for name in request.query.keys() - Changes.__annotations__.keys():
        raise problem(web.HTTPBadRequest, unknown(name))  # whatever its value
    try:
        return {name: json.loads(value) for name, value in request.query.items()}
    except (ValueError, RecursionError) as error:
        raise problem(
            web.HTTPBadRequest, f"controls in the query are numbers, true, false or null: {error}"
        ) from error


async def _offer(request: web.Request, checked: Callable[[str], Offer]) -> Offer:
    if request.content_type != SDP:
        raise problem(web.HTTPUnsupportedMediaType, f"the body must be {SDP}, not {request.content_type}")
    try:
        return checked((await body(request)).decode())
    except (OfferError, UnicodeDecodeError) as error:
        raise problem(web.HTTPBadRequest, str(error)) from error


def _candidates(fragment: str, call: Call) -> list[RTCIceCandidate]:
    """What a fragment of SDP (RFC 8840) holds, in order; ValueError where it is none, or of other credentials.

    That these were the last is not passed on: aioice would then fail a call whose caller hides its addresses.
    """
    lines = [line.strip() for line in fragment.splitlines() if line.strip()]
    found: list[RTCIceCandidate] = []
    mid: str | None = None
    for line in lines:
        name, _, value = line.partition(":")
        match name:
            case "a=ice-ufrag" if value != call.remote_ufrag:
                raise ValueError(f"a=ice-ufrag must be that of the offer, not {value!r}: no ICE restarts")
            case "a=mid":
                mid = value
            case "a=candidate":
                candidate = _candidate(value)
                if not is_usable(candidate):
                    continue
                candidate.sdpMid, candidate.sdpMLineIndex = mid, None if mid is not None else 0
                found.append(candidate)
            case _ if "=" not in line:
                raise ValueError(f"the body must be lines of SDP, not {line[:100]!r}")
    if len(found) > MOST_ALIKE:
        raise ValueError(f"at most {MOST_ALIKE} candidates, not {len(found)}")
    return found


def _candidate(text: str) -> RTCIceCandidate:
    try:
        return candidate_from_sdp(text)
    except Exception as error:  # the parser raises whatever its line of code happens to
        raise ValueError(f"not a candidate: {text[:100]!r}") from error
