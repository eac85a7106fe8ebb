"""STUN and TURN servers as a call gets them: with passwords of limited time where a secret is shared with TURN.

The scheme is that of coturn's ``use-auth-secret`` (draft-uberti-behave-turn-rest-00): the user's name is the time
of expiry, the password its HMAC, so that a caller's password is worthless soon after the call.
"""

import base64
import hmac
import time
from collections.abc import Iterable
from dataclasses import replace

from . import secretfile
from .config import Config
from .values import IceServer


def with_secret(config: Config) -> Config:
    """``config`` with the secret of the file. Raises ``ValueError`` or ``OSError``, which do not show it."""
    if config.turn_secret_file is not None:
        secret = secretfile.one(config.turn_secret_file, "the secret")
        config = replace(config, turn_secret=secret, turn_secret_file=None)
    nameless = [server.url for server in config.ice_servers if _is_timed(server)]
    if nameless and config.turn_secret is None:
        raise ValueError(
            f"--ice-server {nameless[0]} has no user: allowed is turn:USER:PASSWORD@HOST, or --turn-secret-file"
        )
    if config.turn_secret is not None and not nameless:
        raise ValueError(
            "a TURN secret is given, but no --ice-server turn:HOST without a user, which it is for"
        )
    return config


def of(config: Config) -> tuple[IceServer, ...]:
    """The servers of the options; with a secret, TURN servers without a user get one for the longest call."""
    if config.turn_secret is None:
        return config.ice_servers
    expiry = int(time.time() + config.connect_timeout + config.max_call_time)
    secret = config.turn_secret
    return tuple(
        timed(server, secret, expiry) if _is_timed(server) else server for server in config.ice_servers
    )


def timed(server: IceServer, secret: str, expiry: int) -> IceServer:
    """``server`` with a user until ``expiry``, s of the epoch."""
    username = str(expiry)
    digest = hmac.digest(secret.encode(errors="surrogateescape"), username.encode(), "sha1")
    return replace(server, username=username, credential=base64.b64encode(digest).decode())


def for_browser(servers: Iterable[IceServer]) -> list[dict[str, str]]:
    """As the ``iceServers`` of an ``RTCPeerConnection`` are written."""
    found = []
    for server in servers:
        account = {"username": server.username, "credential": server.credential}
        given = {name: value for name, value in account.items() if value is not None}
        found.append({"urls": server.url, **given})
    return found


def _is_timed(server: IceServer) -> bool:
    return server.url.startswith("turn") and server.username is None
