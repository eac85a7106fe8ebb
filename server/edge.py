"""What stands between the network and the routes: the same before one process and before several workers."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from .access import Tokens, is_loopback, known_as, needs_token
from .addresses import AddressLimits, TooMany, caller_of, forwards_untrusted
from .config import Config
from .origins import headers_for, leave
from .problems import errors_as_json, problem
from .values import Network

LARGEST_BODY: Final = 64 * 1024  # bytes
BODY_TIME: Final = 10.0  # s that a body may take to come
# s that a TCP connection may go on without a whole request, or take nothing of an answer
IDLE_TIME: Final = 30.0
OFFERS: Final = ("/offer", "/whip/{room}", "/whep/{room}")  # where calls begin, by POST
CALLER_HEADER: Final = "X-Percepnet-Caller"  # with which the front tells a worker the caller's address
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

logger = logging.getLogger(__name__)

# Address that a request comes from
CALLER: Final[web.AppKey[Callable[[web.Request], str]]] = web.AppKey("caller")
ANSWERS: Final[web.AppKey[Counter[int]]] = web.AppKey("answers")  # to offers, by status, since start
TRUSTED: Final[web.AppKey[Collection[Network]]] = web.AppKey("trusted")  # proxies
LIMITS: Final[web.AppKey[AddressLimits | None]] = web.AppKey("limits")


def application(config: Config, calls_of: Callable[[str], int]) -> web.Application:
    """One that others reach: with access control, allowed origins and limits, and without routes.

    ``calls_of`` tells how many calls an address has. Raises as :meth:`Tokens.of`.
    """
    tokens = Tokens.of(config)
    gates = [known_as(config, tokens), leave(config.allow_origins), needs_token(tokens)]
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[errors_as_json, *gates])
    app[CALLER] = lambda request: caller_of(request, config.trust_forwarded)
    app[TRUSTED] = config.trust_forwarded
    app[LIMITS] = AddressLimits(config.max_calls_per_address, config.offers_per_second, calls_of)
    # counters begin at 0 for Prometheus
    app[ANSWERS] = Counter(dict.fromkeys((201, 400, 401, 409, 429, 503), 0))
    app.on_response_prepare.append(_add_headers)
    app.on_response_prepare.append(_count_answer)
    app.on_response_prepare.append(headers_for(config.allow_origins))
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # else the system's own time of many minutes
        app.on_response_prepare.append(_bound_sending)
    return app


def application_behind_front() -> web.Application:
    """One that only the front reaches, which has let in whoever comes here."""
    app = web.Application(client_max_size=LARGEST_BODY, middlewares=[errors_as_json])
    app[CALLER] = lambda request: request.headers.get(CALLER_HEADER, "")
    app[LIMITS] = None
    app.on_response_prepare.append(_add_headers)
    return app


@contextmanager
def admitted(request: web.Request) -> Iterator[str]:
    """Around the answering of an offer: gives the caller's address; 429 for one that has or asks too much."""
    caller = request.app[CALLER](request)
    limits = request.app[LIMITS]
    if limits is None:
        yield caller
        return
    untrusted = forwards_untrusted(request, request.app[TRUSTED])
    if untrusted and is_loopback(caller):  # which has no limits
        _warn_of_proxy(request)
    try:
        with limits.admitted(caller):
            yield caller
    except TooMany as error:
        if untrusted:
            _warn_of_proxy(request)
        raise problem(web.HTTPTooManyRequests, str(error), retry_after=error.retry_after) from error


def _warn_of_proxy(request: web.Request) -> None:
    logger.warning("%s forwards callers, but is not trusted with it: --trust-forwarded", request.remote)


async def body(request: web.Request) -> bytes:
    """What came with a request; 408 for one that sends it drop by drop, 400 for one broken off or packed wrong."""
    try:
        async with asyncio.timeout(BODY_TIME):
            return await request.read()
    except web.RequestPayloadError:
        raise problem(web.HTTPBadRequest, "the body is not what its Content-Encoding says") from None
    except ConnectionError:
        raise problem(web.HTTPBadRequest, "the connection ended before the body did") from None
    except TimeoutError:
        raise problem(web.HTTPRequestTimeout, f"the body has not come within {BODY_TIME:g} s") from None


def answers(app: web.Application) -> dict[str, int]:
    """How often offers were answered with each status, ready for JSON; empty behind a front, which knows it all."""
    return {str(status): count for status, count in sorted(app.get(ANSWERS, Counter()).items())}


async def _count_answer(request: web.Request, response: web.StreamResponse) -> None:
    resource = request.match_info.route.resource
    if request.method == "POST" and resource is not None and resource.canonical in OFFERS:
        request.app[ANSWERS][response.status] += 1


async def _bound_sending(request: web.Request, response: web.StreamResponse) -> None:
    """Let the system end the connection of a client that does not read its answers."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(IDLE_TIME * 1000))


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-cache" if request.method == "GET" else "no-store")
