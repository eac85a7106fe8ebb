"""Who may call: bearer tokens (RFC 6750), asked for by every route that is not named as public here.

A token opens the server; a call is then held by its id, which cannot be guessed and which only the caller gets
to know: one who holds another token, or the same, does not find the calls of others. The control channel
needs no token, because it comes inside a call.
"""

import hashlib
import hmac
import ipaddress
import logging
import re
from collections.abc import Iterable
from typing import Final, Self
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from . import secretfile
from .config import Config
from .problems import problem

SHORTEST_TOKEN: Final = 16  # characters
TOKEN: Final = re.compile(rf"[A-Za-z0-9._~+/-]{{{SHORTEST_TOKEN},}}=*")  # RFC 6750, 2.1
VARIABLE: Final = "PERCEPNET_TOKENS"
_PUBLIC: Final = "__percepnet_public__"

logger = logging.getLogger(__name__)


class Tokens:
    """Those that open the server. Only their digests are kept, so that nothing can show them."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = [_digest(token) for token in tokens]

    @classmethod
    def of(cls, config: Config) -> Self | None:
        """As the options have it; None where calls need none.

        Raises ``ValueError`` where nobody has said whether an address that others reach needs tokens, and for
        tokens that are none; ``OSError`` for a file that cannot be read. No error shows a token.
        """
        found = [(VARIABLE, token) for token in config.tokens]
        if config.token_file is not None:
            found += [
                (f"{config.token_file}, line {n}", token) for n, token in secretfile.read(config.token_file)
            ]
        for where, token in found:
            if not TOKEN.fullmatch(token):
                allowed = f"{SHORTEST_TOKEN} or more of A-Z, a-z, 0-9 and -._~+/"
                raise ValueError(f"{where}: a token has {allowed}; this one does not")
        if config.access == "open":
            if found:
                raise ValueError("--access open goes without tokens, but there are some: leave out one")
            return None
        if found:
            return cls(token for _, token in found)
        local = is_loopback(config.host) and not config.trust_forwarded
        if config.access == "auto" and config.token_file is None and local:
            return None
        where = f"in {config.token_file}" if config.token_file is not None else "given"
        if config.access == "token":
            why = "--access token"
        elif config.trust_forwarded:
            why = "a server behind a proxy, which --trust-forwarded says it is,"
        else:
            why = f"address {config.host}"
        raise ValueError(
            f"{why} needs tokens, and none is {where}: --token-file FILE, {VARIABLE}, "
            "or --access open for anybody"
        )

    def accept(self, header: str | None) -> bool:
        """Whether the value of an ``Authorization`` header has one of them."""
        scheme, _, token = (header or "").partition(" ")
        given = _digest(token.strip())
        # All are compared, in constant time: how long it takes tells nothing.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def public(handler: Handler) -> Handler:
    """Mark a handler as one that shows, makes, hears and changes no call: it needs no token."""
    setattr(handler, _PUBLIC, True)
    return handler


def is_public(handler: object) -> bool:
    return getattr(handler, _PUBLIC, False)


def needs_token(tokens: Tokens | None) -> Middleware:
    """401 for requests without a valid token, at every route but the :func:`public` ones."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        match = request.match_info
        if tokens is None or match.http_exception is not None or is_public(match.handler):
            return await handler(request)
        header = request.headers.get(hdrs.AUTHORIZATION)
        if tokens.accept(header):
            return await handler(request)
        if header is not None:
            logger.warning("a request from %s had no valid token", request.remote)
        raise problem(
            web.HTTPUnauthorized,
            "a valid token is needed, as Authorization: Bearer TOKEN",
            headers={hdrs.WWW_AUTHENTICATE: "Bearer" if header is None else 'Bearer error="invalid_token"'},
        )

    return check


def known_as(config: Config, tokens: Tokens | None) -> Middleware:
    """421 for requests to a name that is none of this machine's own, where anybody on it may call.

    A page could else give its own name the address 127.0.0.1 (DNS rebinding): to the browser, this server would
    be of that page's origin. ``--access open`` and tokens go without.
    """
    free = tokens is not None or config.access == "open"

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if free or is_loopback(_host_of(request)):
            return await handler(request)
        raise problem(
            web.HTTPMisdirectedRequest,
            f"this server is localhost, not {request.host}; --access open answers to any name",
        )

    return check


def _host_of(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def headers(token: str | None) -> dict[str, str]:
    """With which a caller shows its token."""
    return {} if token is None else {hdrs.AUTHORIZATION: f"Bearer {token}"}


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
