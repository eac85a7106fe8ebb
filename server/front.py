"""What the public address answers where several workers share the calls.

An offer goes to the least loaded worker, one for a room to the worker that is the room's home, the rest to the
one that the call's id names. The page comes from here. What a worker answers is passed on as it is: status,
headers and body.
"""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from . import metrics
from .access import public
from .api import CONFIG, PAGE, admin, endpoint, file, ice, no_call, page
from .config import Config
from .edge import CALLER_HEADER, admitted, answers, application, body
from .figures import process_figures
from .problems import problem
from .worker import Worker
from .workers import Workers

HOP_BY_HOP: Final = {"Connection", "Content-Length", "Date", "Keep-Alive", "Server", "Transfer-Encoding"}
PASSED_ON: Final = ("Content-Type", "If-Match")
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
GATHERING_TIME: Final = 2.0  # s that a worker has to tell of its state
HEALTH_KEPT: Final = 0.5  # s: whoever asks more often, and everybody may, takes no worker's time
STARTING_TIME: Final = 2  # s after which a caller may find a worker that was not there

WORKERS: Final = web.AppKey("workers", Workers)
routes = web.RouteTableDef()


class Kept:
    """An answer that all who ask within ``HEALTH_KEPT`` share."""

    def __init__(self) -> None:
        self._answer: list[tuple[int, Any]] = []
        self._until = -math.inf  # s of time.monotonic()
        self._asking = asyncio.Lock()

    async def told(self, ask: Callable[[], Awaitable[list[tuple[int, Any]]]]) -> list[tuple[int, Any]]:
        async with self._asking:
            if time.monotonic() >= self._until:
                self._answer = await ask()
                self._until = time.monotonic() + HEALTH_KEPT
            return self._answer


HEALTH: Final = web.AppKey("health", Kept)


def create_front(config: Config, workers: Workers, folder: Path) -> web.Application:
    """The front of ``workers``; the page's files are in ``folder``."""
    app = application(config, workers.calls_of)
    app[CONFIG], app[WORKERS], app[PAGE], app[HEALTH] = config, workers, folder, Kept()
    here = [web.get("/", page), web.get("/admin", admin), web.get("/config", ice)]
    for path in ("/whip/{room}", "/whep/{room}"):
        here += [web.get(path, endpoint), web.options(path, endpoint)]
    app.add_routes([*here, *routes, web.get("/{path:.+}", file)])
    return app


@routes.post("/offer")
async def offer(request: web.Request) -> web.Response:
    _still_open(request)
    with admitted(request) as caller:
        if (room := request.query.get("room")) is not None:
            return await _at_home(request, room, caller)
        return await _offered(request, caller)


def _still_open(request: web.Request) -> None:
    if request.app[WORKERS].draining:
        after = math.ceil(request.app[CONFIG].drain_time)
        raise problem(web.HTTPServiceUnavailable, "the server is ending", retry_after=after)


async def _offered(request: web.Request, caller: str) -> web.Response:
    """The answer of the first worker, from the least loaded on, that takes the call; else the last refusal."""
    workers = request.app[WORKERS]
    content = await body(request)
    tried: list[Worker] = []
    refusal: web.Response | None = None
    while (worker := workers.least_loaded(without=tried)) is not None:
        tried.append(worker)
        worker.offers += 1
        try:
            answer = await _passed_on(request, worker, content, {CALLER_HEADER: caller})
        except (aiohttp.ClientError, TimeoutError):
            continue  # if it had opened a call already, that died with it or ends unconnected
        finally:
            worker.offers -= 1
        if answer.status != web.HTTPServiceUnavailable.status_code:
            return answer
        refusal = answer
    if refusal is not None:
        return refusal
    raise problem(web.HTTPServiceUnavailable, "no worker is ready", retry_after=STARTING_TIME)


@routes.post("/whip/{room}")
@routes.post("/whep/{room}")
async def room(request: web.Request) -> web.Response:
    _still_open(request)
    with admitted(request) as caller:
        return await _at_home(request, request.match_info["room"], caller)


@routes.get("/calls/{id}")
@routes.patch("/calls/{id}")
@routes.delete("/calls/{id}")
async def call(request: web.Request) -> web.Response:
    id = request.match_info["id"]
    number = id.partition(".")[0]
    content = await body(request)  # first, for while it comes a worker may go
    worker = next((worker for worker in request.app[WORKERS].live if str(worker.number) == number), None)
    if worker is None:
        raise no_call(id)
    try:
        return await _passed_on(request, worker, content)
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
        if not worker.ready:  # it has just died
            raise no_call(id) from None
        reason = f"worker {number} cannot be reached"  # too many ask at once, or its death is not known yet
        raise problem(web.HTTPServiceUnavailable, reason, retry_after=STARTING_TIME) from None
    except TimeoutError:
        raise problem(web.HTTPGatewayTimeout, f"worker {number} does not answer") from None


@routes.get("/healthz")
@public
async def health(request: web.Request) -> web.Response:
    """200 while a worker is fine and takes calls; how full they all are, and how many of how many are fine."""
    workers = request.app[WORKERS]
    told_by = await request.app[HEALTH].told(lambda: _gathered(workers, "/healthz"))
    fine = [each for status, each in told_by if status == 200]
    state = "draining" if workers.draining else "ok" if fine else "no worker is ready"
    told = {
        "status": state,
        **{name: sum(each[name] for _, each in told_by) for name in ("calls", "rated_calls", "max_calls")},
        "workers": {"fine": len(fine), "of": workers.count},
    }
    return web.json_response(told, status=200 if state == "ok" else 503)


@routes.get("/stats")
async def stats(request: web.Request) -> web.Response:
    """The figures of all workers that answer, and of this process."""
    return web.json_response(await _stats(request))


@routes.get("/metrics")
async def scrape(request: web.Request) -> web.Response:
    """The same for Prometheus."""
    return metrics.exposed(request, await _stats(request))


@routes.get("/calls")
async def listed(request: web.Request) -> web.Response:
    """A line about each call of all workers that answer."""
    return web.json_response({"calls": await _joined(request, "/calls", "calls")})


async def _stats(request: web.Request) -> dict[str, object]:
    workers = await _joined(request, "/stats", "workers")
    return {"workers": workers, "front": process_figures(), "answers": answers(request.app)}


async def _joined(request: web.Request, path: str, key: str) -> list[Any]:
    """What the workers have in the list ``key``, in one."""
    found = await _gathered(request.app[WORKERS], path)
    return [entry for status, body in found if status == 200 for entry in body[key]]


async def _at_home(request: web.Request, room: str, caller: str) -> web.Response:
    """Those of a room hear each other, so all of them are with one worker."""
    content = await body(request)  # first, for while it comes a worker may go
    worker = request.app[WORKERS].home(room)
    if worker is not None and not worker.silent:
        try:
            return await _passed_on(request, worker, content, {CALLER_HEADER: caller})
        except (aiohttp.ClientError, TimeoutError):
            pass
    raise problem(
        web.HTTPServiceUnavailable, "the worker of this room is not ready", retry_after=STARTING_TIME
    )


async def _passed_on(
    request: web.Request, worker: Worker, content: bytes, more: Mapping[str, str] = NO_HEADERS
) -> web.Response:
    headers = dict(more) | {
        name: ", ".join(request.headers.getall(name)) for name in PASSED_ON if name in request.headers
    }
    url = URL(request.rel_url.raw_path_qs, encoded=True)
    async with worker.http.request(request.method, url, data=content or None, headers=headers) as answer:
        kept = [(name, value) for name, value in answer.headers.items() if name.title() not in HOP_BY_HOP]
        return web.Response(status=answer.status, body=await answer.read(), headers=CIMultiDict(kept))


async def _gathered(workers: Workers, path: str) -> list[tuple[int, Any]]:
    """Status and body of each worker that answers in time, by number; who is silent is not asked."""

    async def ask(worker: Worker) -> tuple[int, Any] | None:
        try:
            async with asyncio.timeout(GATHERING_TIME), worker.http.get(path) as answer:
                return answer.status, json.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            return None

    asked = sorted((each for each in workers.live if not each.silent), key=lambda worker: worker.number)
    found = await asyncio.gather(*map(ask, asked))
    return [answer for answer in found if answer is not None]
