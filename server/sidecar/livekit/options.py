"""Options of a sidecar beside LiveKit. Secrets come from the environment or a file."""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from percepnet.cli.options import named, path_of
from server import secretfile
from server.config import for_argparse

from ..options import CommonOptions
from ..transport import checked_url
from . import token
from .marks import sidecar_attributes

KEY: Final = "LIVEKIT_API_KEY"  # as LiveKit's own tools have them
SECRET: Final = "LIVEKIT_API_SECRET"
TOKEN: Final = "LIVEKIT_TOKEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveKitOptions(CommonOptions):
    rooms: Mapping[str, Callable[[], str]]  # by name: what gives a token, asked each time the room is joined

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--url",
            required=True,
            type=for_argparse(checked_url),
            help="of LiveKit: ws://HOST:7880 or wss://HOST",
        )
        parser.add_argument(
            "--room",
            type=named,
            action="append",
            default=[],
            metavar="NAME",
            help="to enhance the participants of; repeatable",
        )
        parser.add_argument(
            "--token-file",
            dest="token_files",
            type=path_of,
            action="append",
            default=[],
            metavar="FILE",
            help=f"holds a ready token, in place of {KEY}, {SECRET} and --room; read again each time its room is "
            "joined; repeatable",
        )
        cls.add_common_arguments(parser)
        parser.epilog = (
            f"environment:\n  {KEY}, {SECRET}: what tokens for the rooms are signed with"
            f"\n  {TOKEN}: a ready token; it must allow canPublish, canSubscribe and canUpdateOwnMetadata"
        )

    @classmethod
    def from_arguments(
        cls, arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """``OSError`` or ``ValueError`` where there is no token for each room, and a room."""
        key, secret = environment.get(KEY, ""), environment.get(SECRET, "")
        rooms: dict[str, Callable[[], str]] = {}
        if arguments.room and not (key and secret):
            raise ValueError(f"--room needs {KEY} and {SECRET} in the environment")
        for room in arguments.room:
            rooms[room] = _signing(key, secret, room, arguments.name)
        for path in arguments.token_files:
            rooms[token.room_of(secretfile.one(path, "the token"))] = _reading(path)
        if ready := environment.get(TOKEN):
            rooms[token.room_of(ready)] = lambda: ready
        if not rooms:
            raise ValueError(f"no room: --room, --token-file or {TOKEN} must name one")
        return cls(rooms=rooms, **cls.common(arguments))


def _signing(key: str, secret: str, room: str, name: str) -> Callable[[], str]:
    return lambda: token.signed(
        key,
        secret,
        room=room,
        identity=f"percepnet-sidecar-{name}",
        name=f"percepnet sidecar {name}",
        attributes=sidecar_attributes(name),
    )


def _reading(path: Path) -> Callable[[], str]:
    return lambda: secretfile.one(path, "the token")
