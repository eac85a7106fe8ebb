"""Errors of the API: JSON, ``{"error": "…"}``, whatever raises them."""

import json
import logging
from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

_OF_BODY: Final = (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH)

logger = logging.getLogger(__name__)


def problem(
    kind: type[web.HTTPError],
    text: str,
    *,
    retry_after: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.HTTPError:
    """An error as JSON; ``retry_after`` in s."""
    more = dict(headers or {})
    if retry_after is not None:
        more[hdrs.RETRY_AFTER] = str(max(1, retry_after))
    return kind(text=json.dumps({"error": text}), content_type="application/json", headers=more)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outermost: whatever is raised inside is an answer in JSON."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        text = error.text if error.content_type == "application/json" else json.dumps({"error": _told(error)})
        kept = {name: value for name, value in error.headers.items() if name not in _OF_BODY}
        # Not the error itself: until the next request of its client it would hold, in the frames of its traceback,
        # all that was refused.
        return web.Response(status=error.status, text=text, content_type="application/json", headers=kept)
    except Exception:
        # The route and not the path: a path has the call's id, and who knows that may turn and end the call.
        resource = request.match_info.route.resource
        logger.exception("%s %s failed", request.method, resource and resource.canonical)
        return web.json_response({"error": "internal error"}, status=500)


def _told(error: web.HTTPException) -> str:
    """What aiohttp says, which for a body without an end is in the text."""
    return error.text or error.reason if error.status == 413 else error.reason
