"""LiveKit's access tokens: JSON Web Tokens (RFC 7519), signed with HMAC SHA-256."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any, Final

# s in which a room can be joined; LiveKit renews the tokens of those who are in it
TOKEN_TIME: Final = 6 * 3600
CLOCK_TOLERANCE: Final = 60  # s by which LiveKit's clock may be behind
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}


def signed(
    key: str, secret: str, *, room: str, identity: str, name: str, attributes: Mapping[str, str]
) -> str:
    """A token that lets ``identity`` into ``room``: to hear, to publish, and to change its own attributes."""
    now = int(time.time())
    claims = {
        "iss": key,
        "sub": identity,
        "name": name,
        "nbf": now - CLOCK_TOLERANCE,
        "exp": now + TOKEN_TIME,
        "attributes": dict(attributes),
        "video": {
            "roomJoin": True,
            "room": room,
            "canPublish": True,
            "canSubscribe": True,
            "canPublishData": False,
            "canUpdateOwnMetadata": True,
        },
    }
    text = f"{_encoded(json.dumps(_HEADER).encode())}.{_encoded(json.dumps(claims).encode())}"
    return f"{text}.{_encoded(hmac.digest(secret.encode(), text.encode(), 'sha256'))}"


def room_of(token: str) -> str:
    """The room that ``token`` is for, its signature unseen; ``ValueError`` where it is for none."""
    try:
        _, claims, _ = token.split(".")
        decoded: Any = json.loads(base64.urlsafe_b64decode(claims + "=="))
        room = decoded["video"]["room"]
    except (ValueError, KeyError, TypeError):
        room = None
    if not (isinstance(room, str) and room):
        raise ValueError("a token of LiveKit must be a JWT that names its room in video.room")
    return room


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
