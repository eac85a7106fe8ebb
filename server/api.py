"""HTTP: the page, the calls and their controls. All errors of the API are JSON, ``{"error": "…"}``."""

import json
from functools import partial
from pathlib import Path
from typing import Final

from aiohttp import web

from . import iceservers, metrics, overview, whip
from .access import public
from .call import Call, TooManyCalls
from .calls import Calls
from .config import Config
from .controls import checked
from .edge import admitted, answers, body
from .engine import Engine
from .figures import process_figures
from .offer import Offer
from .problems import problem
from .rooms import Alone, RoomTaken, checked_name

CONFIG: Final = web.AppKey("config", Config)
ENGINE: Final = web.AppKey("engine", Engine)
CALLS: Final = web.AppKey("calls", Calls)
PAGE: Final = web.AppKey("page", Path)  # folder of its files

routes = web.RouteTableDef()


@routes.get("/")
@public
async def page(request: web.Request) -> web.StreamResponse:
    return web.FileResponse(request.app[PAGE] / "index.html")


@routes.get("/admin")
@public
async def admin(request: web.Request) -> web.StreamResponse:
    """The page that draws the server's load; what it draws needs a token."""
    return web.FileResponse(request.app[PAGE] / "admin.html")


@routes.get("/healthz")
@public
async def health(request: web.Request) -> web.Response:
    """200 while the engine runs and calls are taken, else 503; how many calls, and how many may be."""
    calls = request.app[CALLS]
    state = "draining" if calls.draining else "ok" if request.app[ENGINE].alive else "engine has died"
    told = {
        "status": state,
        "calls": calls.voices,
        "rated_calls": calls.rated,
        "max_calls": request.app[CONFIG].max_calls,
    }
    return web.json_response(told, status=200 if state == "ok" else 503)


@routes.get("/config")
async def ice(request: web.Request) -> web.Response:
    """What a caller's ``RTCPeerConnection`` needs: STUN and TURN servers, with passwords where they have some."""
    servers = iceservers.for_browser(iceservers.of(request.app[CONFIG]))
    return web.json_response({"iceServers": servers}, headers={"Cache-Control": "no-store"})


@routes.get("/stats")
async def stats(request: web.Request) -> web.Response:
    """What this process uses and carries, as the only entry of ``workers``."""
    return web.json_response(_stats(request))


@routes.get("/metrics")
async def scrape(request: web.Request) -> web.Response:
    """The same for Prometheus."""
    return metrics.exposed(request, _stats(request))


@routes.get("/calls")
async def listed(request: web.Request) -> web.Response:
    """A line about each call. Whole ids are not told: who knows one may turn and end the call."""
    return web.json_response({"calls": [overview.line(call) for call in request.app[CALLS]]})


@routes.post("/offer")
async def offer(request: web.Request) -> web.Response:
    """``{sdp, type, enabled?, attenuation_limit_db?, postfilter?}`` → 201 ``{sdp, type, id}``.

    With ``?room=NAME`` the caller hears the other one of that room, without it itself.
    """
    calls = request.app[CALLS]
    room = request.query.get("room")
    try:
        with admitted(request) as caller:
            checked_offer = Offer.checked(await _json(request), others_hear=room is not None)
            seated = Alone if room is None else partial(calls.rooms.join, checked_name(room))
            call = await calls.open(checked_offer, caller, seated)
    except RoomTaken as error:
        raise problem(web.HTTPConflict, str(error)) from error
    except ValueError as error:  # OfferError too
        raise problem(web.HTTPBadRequest, str(error)) from error
    except TooManyCalls as error:
        raise problem(web.HTTPServiceUnavailable, str(error), retry_after=error.retry_after) from error
    assert call.answer is not None
    answer = {"sdp": call.answer.sdp, "type": call.answer.type, "id": call.id}
    return web.json_response(answer, status=201, headers={"Location": f"/calls/{call.id}"})


@routes.get("/calls/{id}")
async def show(request: web.Request) -> web.Response:
    return web.json_response(_call(request).report())


@routes.patch("/calls/{id}")
async def turn(request: web.Request) -> web.Response:
    """Any subset of the controls → what ``GET`` returns; or more addresses of the caller (WHIP, WHEP)."""
    if request.content_type == whip.FRAGMENT:
        return await whip.trickle(request, _call(request))
    changes = await _json(request, whip.FRAGMENT)
    call = _call(request)  # now, for while that came it may have ended
    try:
        call.turn(checked(changes))
    except ValueError as error:
        raise problem(web.HTTPBadRequest, str(error)) from error
    return web.json_response(call.report())


@routes.post("/whip/{room}")
async def publish(request: web.Request) -> web.Response:
    return await whip.publish(request, request.app[CALLS], request.app[CONFIG])


@routes.post("/whep/{room}")
async def listen(request: web.Request) -> web.Response:
    return await whip.listen(request, request.app[CALLS], request.app[CONFIG])


@routes.get("/whip/{room}")
@routes.options("/whip/{room}")
@routes.get("/whep/{room}")
@routes.options("/whep/{room}")
@public
async def endpoint(request: web.Request) -> web.Response:
    return whip.endpoint()


@routes.delete("/calls/{id}")
async def close(request: web.Request) -> web.Response:
    call = _call(request)
    await request.app[CALLS].close(call.id)
    return web.Response(status=204 if call.seat.room is None else 200)  # 200: RFC 9725, figure 1


@routes.get("/{path:.+}")  # last: it takes every path that is left
@public
async def file(request: web.Request) -> web.StreamResponse:
    """The page's other files. aiohttp's own static route answers 404 with an empty body that is no JSON."""
    folder = request.app[PAGE].resolve()
    try:
        path = (folder / request.match_info["path"]).resolve()
        found = path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise web.HTTPNotFound
    return web.FileResponse(path)


def _stats(request: web.Request) -> dict[str, object]:
    calls = request.app[CALLS]
    worker = {"worker": calls.worker, **process_figures(), **calls.figures()}
    return {"workers": [worker], "answers": answers(request.app)}


def _call(request: web.Request) -> Call:
    try:
        return request.app[CALLS].get(request.match_info["id"])
    except KeyError:
        raise no_call(request.match_info["id"]) from None


async def _json(request: web.Request, *others: str) -> object:
    """The decoded body, whose type is JSON's; ``others`` are taken, too, but not here."""
    # The type is asked for because a page of another origin cannot send it without a preflight.
    if request.content_type != "application/json":
        allowed = " or ".join(("application/json", *others))
        raise problem(web.HTTPUnsupportedMediaType, f"the body must be {allowed}, not {request.content_type}")
    content = await body(request)
    try:
        # in UTF-8 (RFC 8259, 8.1): some charsets take a second to decode
        decoded: object = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise problem(web.HTTPBadRequest, "the body is not valid JSON") from error
    return decoded


def no_call(id: str) -> web.HTTPError:
    return problem(web.HTTPNotFound, f"no call {id!r}")
