"""Options of a sidecar. Secrets come from the environment or a file, where no list of processes shows them."""

import argparse
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from percepnet.cli.options import add_enhancer_options, named, path_of, within
from server import secretfile
from server.config import ENVIRONMENT_PREFIX, for_argparse
from server.controls import Controls
from server.logs import FORMATS, LEVELS
from server.values import IceServer, one_of

from .claims import Feed
from .transport import checked_url

SECRET: Final = "PERCEPNET_JANUS_SECRET"
TOKEN: Final = "PERCEPNET_JANUS_TOKEN"
PIN: Final = "PERCEPNET_JANUS_PIN"


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonOptions:
    """Those of sidecars beside any server."""

    url: str
    name: str
    model: Path | None = None
    controls: Controls = field(default_factory=Controls)
    publishers: int = 64  # enhanced at the same time, in all rooms
    stats_host: str = "127.0.0.1"
    stats_port: int | None = None

    @staticmethod
    def add_common_arguments(parser: argparse.ArgumentParser) -> None:
        """All but ``url``."""
        parser.add_argument(
            "--name", default=secrets.token_hex(4), help="of this sidecar among others (default: by chance)"
        )
        parser.add_argument(
            "--publishers",
            type=within(int, 1, 1024),
            default=64,
            metavar="N",
            help="enhanced at the same time, in all rooms; further ones are left to other sidecars (default: 64)",
        )
        parser.add_argument(
            "--stats-host", default="127.0.0.1", help="address of --stats-port (default: 127.0.0.1)"
        )
        parser.add_argument(
            "--stats-port",
            type=within(int, 0, 65535),
            metavar="PORT",
            help="answer GET /stats and GET /healthz (default: do not)",
        )
        for option, allowed, default in (("format", FORMATS, "text"), ("level", LEVELS, "info")):
            variable = f"{ENVIRONMENT_PREFIX}LOG_{option.upper()}"
            parser.add_argument(
                f"--log-{option}",
                type=for_argparse(one_of(*allowed)),
                default=os.environ.get(variable) or default,
                help=f"of log lines: {', '.join(allowed)} (default: {variable}, else {default})",
            )
        add_enhancer_options(parser)

    @staticmethod
    def common(arguments: argparse.Namespace) -> dict[str, Any]:
        return {
            "url": arguments.url,
            "name": arguments.name,
            "model": arguments.model,
            "controls": Controls(
                postfilter=arguments.postfilter, attenuation_limit_db=arguments.attenuation_limit_db
            ),
            "publishers": arguments.publishers,
            "stats_host": arguments.stats_host,
            "stats_port": arguments.stats_port,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class SidecarOptions(CommonOptions):
    """Beside Janus."""

    rooms: tuple[Feed, ...]
    authorization: Mapping[str, str]  # what each request to Janus carries
    pin: str | None = None
    ice_servers: tuple[IceServer, ...] = ()

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--url",
            required=True,
            type=for_argparse(checked_url),
            help="of Janus's API: ws://HOST:8188 (better: a sidecar that dies is noticed at once) or http://HOST:8088/janus",
        )
        parser.add_argument(
            "--room",
            required=True,
            action="append",
            type=_room,
            metavar="ID",
            help="a VideoRoom to enhance the publishers of; repeatable",
        )
        parser.add_argument(
            "--secret-file", type=path_of, metavar="FILE", help=f"holds Janus's api_secret (or: {SECRET})"
        )
        parser.add_argument(
            "--ice-server",
            dest="ice_servers",
            action="append",
            default=[],
            type=for_argparse(IceServer.parse),
            metavar="SERVER",
            help="stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT; repeatable",
        )
        cls.add_common_arguments(parser)
        parser.epilog = (
            f"environment:\n  {SECRET}, {TOKEN}: api_secret and token that Janus asks for"
            f"\n  {PIN}: of the rooms"
        )

    @classmethod
    def from_arguments(
        cls, arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """Raises ``OSError`` or ``ValueError`` where the file of the secret does not have it."""
        secret = environment.get(SECRET, "")
        if arguments.secret_file is not None:
            secret = secretfile.one(arguments.secret_file, "the secret")
        given = {"apisecret": secret, "token": environment.get(TOKEN, "")}
        return cls(
            rooms=tuple(dict.fromkeys(arguments.room)),
            authorization={name: value for name, value in given.items() if value},
            pin=environment.get(PIN) or None,
            ice_servers=tuple(arguments.ice_servers),
            **cls.common(arguments),
        )


def _room(text: str) -> Feed:
    """Numbers are ids as Janus has them; where it has ``string_ids`` they may look like numbers, too: ``'1234'``."""
    text = named(text)
    quoted = text[1:-1] if len(text) > 2 and text[0] == text[-1] == "'" else None
    return quoted or (int(text) if text.isdecimal() else text)
