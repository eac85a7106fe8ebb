"""The server's options: one frozen dataclass, from arguments, then the environment, then the defaults."""

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote

from percepnet.cli.options import available_cores

from .media.opus import HIGHEST_BITRATE, LOWEST_BITRATE, OpusOptions

ENVIRONMENT_PREFIX: Final = "PERCEPNET_"


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server. Written ``stun:host:port`` or ``turn:user:password@host:port``."""

    url: str
    username: str | None = None
    credential: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        scheme, _, rest = text.partition(":")
        account, at, host = rest.rpartition("@")
        if scheme not in ("stun", "turn", "turns") or not host:
            raise ValueError(f"ICE server must be stun:HOST or turn:USER:PASSWORD@HOST, not {text!r}")
        if not at:
            return cls(text)
        username, _, credential = account.partition(":")
        return cls(f"{scheme}:{host}", unquote(username), unquote(credential))


def _number(low: float, high: float, whole: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            raise ValueError(f"must be a {'whole ' if whole else ''}number, not {text!r}") from None
        if not low <= value <= high:
            raise ValueError(f"must be {low:g}…{high:g}, not {text}")
        return value

    return parse


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError(f"must be on or off, not {text!r}")
    return text == "on"


@dataclass(frozen=True, slots=True)
class _Option:
    """How the text of an option is read, and its line in ``--help``."""

    parse: Callable[[str], Any]
    help: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the server: ``--some-name`` as an argument, ``PERCEPNET_SOME_NAME`` in the environment."""

    host: str = "127.0.0.1"
    port: int = 8080
    model: Path | None = None
    max_calls: int = 256
    rated_calls: int | None = None
    connect_timeout: float = 15.0  # s
    max_call_time: float = 4 * 3600.0  # s
    queue_packets: int = 10
    ice_servers: tuple[IceServer, ...] = ()
    workers: int = available_cores()
    drain_time: float = 10.0  # s
    opus_bitrate: int = 64_000  # bit/s
    opus_stereo: bool = False
    opus_fec: bool = False
    opus_dtx: bool = False

    @property
    def opus(self) -> OpusOptions:
        return OpusOptions(
            bitrate=self.opus_bitrate, stereo=self.opus_stereo, fec=self.opus_fec, dtx=self.opus_dtx
        )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add an argument for each option; those not given stay out of the namespace."""
        for option in fields(cls):
            name = "ice-server" if option.name == "ice_servers" else option.name.replace("_", "-")
            shown = "none" if option.default in (None, ()) else option.default
            if isinstance(shown, bool):
                shown = "on" if shown else "off"
            parser.add_argument(
                f"--{name}",
                dest=option.name,
                type=for_argparse(_OPTIONS[option.name].parse),
                action="append" if option.name == "ice_servers" else "store",
                default=argparse.SUPPRESS,
                metavar=name.rpartition("-")[2].upper(),
                help=f"{_OPTIONS[option.name].help} (default: {shown})",
            )

    @classmethod
    def from_arguments(
        cls, arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """Options given as arguments, else in the environment, else the defaults.

        Raises ``ValueError`` that names the variable and what is allowed. ``PERCEPNET_ICE_SERVERS`` holds
        any number of servers with spaces between; passwords are safer there than in the list of processes.
        """
        values: dict[str, Any] = {}
        for option in fields(cls):
            variable = ENVIRONMENT_PREFIX + option.name.upper()
            parse = _OPTIONS[option.name].parse
            if hasattr(arguments, option.name):
                given = getattr(arguments, option.name)
                values[option.name] = tuple(given) if option.name == "ice_servers" else given
            elif variable in environment:
                text = environment[variable]
                try:
                    several = option.name == "ice_servers"
                    values[option.name] = tuple(map(parse, text.split())) if several else parse(text)
                except ValueError as error:
                    raise ValueError(f"{variable}: {error}") from None
        return cls(**values)


_OPTIONS: Final[Mapping[str, _Option]] = {
    "host": _Option(str, "address to listen on"),
    "port": _Option(_number(0, 65535, whole=True), "port to listen on; 0 takes any that is free"),
    "model": _Option(Path, "model file (.onnx) in place of the one in the package"),
    "max_calls": _Option(
        _number(1, 1024, whole=True),
        "calls at the same time, shared by all workers, whatever the machine carries",
    ),
    "rated_calls": _Option(
        _number(1, 1024, whole=True),
        "calls of one worker that are enhanced in time; further ones are refused; none: measured at start",
    ),
    "connect_timeout": _Option(_number(0.1, 300), "seconds that a call has to connect"),
    "max_call_time": _Option(_number(1, 7 * 86400), "seconds after which a call is closed"),
    "queue_packets": _Option(
        _number(7, 50, whole=True), "20 ms packets of a call that may wait before the oldest is dropped"
    ),
    "ice_servers": _Option(
        IceServer.parse, "STUN or TURN server, stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT; repeatable"
    ),
    "workers": _Option(
        _number(1, 256, whole=True), "processes that share the calls; 1 serves without anything in front"
    ),
    "drain_time": _Option(
        _number(0, 86400),
        "seconds that calls may go on after SIGTERM or SIGINT; a second one closes them at once",
    ),
    "opus_bitrate": _Option(
        _number(LOWEST_BITRATE, HIGHEST_BITRATE, whole=True), "bits per second of Opus at most, both ways"
    ),
    "opus_stereo": _Option(_switch, "on or off: Opus in stereo, both channels the same, where asked for"),
    "opus_fec": _Option(
        _switch, "on or off: Opus carries a copy of the packet before, at almost three times the cost"
    ),
    "opus_dtx": _Option(_switch, "on or off: Opus sends no packets in pauses"),
}


def for_argparse(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """argparse shows the text of its own error only."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
