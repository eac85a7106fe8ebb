"""Errors of the API: JSON, ``{"error": "…"}``, whatever raises them."""

import json
import logging
from collections.abc import Mapping

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

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
        if error.status >= 400 and error.content_type != "application/json":
            error.text = json.dumps({"error": error.reason})
            error.content_type = "application/json"
        raise
    except Exception:
        # The route and not the path: a path has the call's id, and who knows that may turn and end the call.
        resource = request.match_info.route.resource
        logger.exception("%s %s failed", request.method, resource and resource.canonical)
        return web.json_response({"error": "internal error"}, status=500)
