"""Pages of other origins (CORS): those that are allowed may call, all others are kept out by their browsers.

A browser sends ``application/json``, ``Authorization``, PATCH and DELETE to another origin only after asking for
leave, and shows no answer without it; an offer of another type is refused. So without the headers from here no
page of another origin can make, see, change or end a call.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from .problems import problem

METHODS: Final = "GET, POST, PATCH, DELETE"
REQUEST_HEADERS: Final = "Authorization, Content-Type"
ANSWER_HEADERS: Final = "Location, Retry-After, WWW-Authenticate"
REMEMBERED: Final = 600  # s that a browser need not ask again

OnPrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def leave(allowed: Collection[str]) -> Middleware:
    """Answers browsers that ask for leave: 204 to pages of ``allowed`` origins, 403 to others."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != "OPTIONS" or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
            return await handler(request)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin not in allowed:
            raise problem(web.HTTPForbidden, f"pages of {origin} may not call; see --allow-origin")
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: REQUEST_HEADERS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(REMEMBERED),
        }
        return web.Response(status=204, headers=headers)

    return answer


def headers_for(allowed: Collection[str]) -> OnPrepare:
    """Adds to each answer, errors too, what lets pages of ``allowed`` origins read it."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        if allowed:
            response.headers[hdrs.VARY] = hdrs.ORIGIN  # a cache must not give one origin another's answer
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin in allowed:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = ANSWER_HEADERS

    return add
