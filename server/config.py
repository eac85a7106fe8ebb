"""The server's options: one frozen dataclass, from arguments, then the environment, then the defaults."""

# ruff: noqa: RUF009 — _option() makes a dataclass field

import argparse
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self

from percepnet.cli.cores import available_cores
from percepnet.cli.options import path_of

from .frames import BACKLOG_PACKETS
from .logs import FORMATS, LEVELS
from .media.opus import HIGHEST_BITRATE, LOWEST_BITRATE, OpusOptions
from .values import IceServer, Network, address, network, number, one_of, origin, ports, switch, url

ENVIRONMENT_PREFIX: Final = "PERCEPNET_"
CALLS_OF_A_CORE: Final = 64  # more than any carries today
ACCESS: Final = ("auto", "token", "open")

Parse = Callable[[str], Any]


def _option(default: Any, parse: Parse, help: str, value: str | None = None) -> Any:
    """A field that is an argument and a variable; one whose default is a tuple may be given several times.

    ``value``: what its value is called in the help, where the last word of its name does not say it.
    """
    return field(default=default, metadata={"parse": parse, "help": help, "value": value})


def _secret(default: Any) -> Any:
    """A field that comes from the environment only: arguments can be read in the list of processes."""
    return field(default=default, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Options of the server: ``--some-name`` as an argument, ``PERCEPNET_SOME_NAME`` in the environment."""

    host: str = _option(
        "127.0.0.1",
        str,
        "address to listen on; 0.0.0.0 means all of IPv4, :: all of IPv6, and --host '' both",
    )
    port: int = _option(8080, number(0, 65535, whole=True), "port to listen on; 0 takes any that is free")
    tls_cert: Path | None = _option(None, path_of, "certificate chain (PEM) to serve https with")
    tls_key: Path | None = _option(
        None, path_of, "its private key (PEM); none: in the file of the certificate"
    )
    access: str = _option(
        "auto",
        one_of(*ACCESS),
        "token: calls need one of the tokens; open: they need none; auto: they do where tokens are given, and "
        "without any only a loopback address is served, with no proxy before it",
    )
    token_file: Path | None = _option(
        None,
        path_of,
        "bearer tokens that open calls, one a line; PERCEPNET_TOKENS holds them with spaces between",
    )
    tokens: tuple[str, ...] = _secret(())
    allow_origins: tuple[str, ...] = _option(
        (), origin, "other origin whose pages may call, such as https://example.org"
    )
    trust_forwarded: tuple[Network, ...] = _option(
        (), network, "proxy, or network of them, whose X-Forwarded-For is believed", "NETWORK"
    )
    model: Path | None = _option(
        None, path_of, "a shipped network (subband, lite) or an .onnx file; where none is given, subband"
    )
    max_calls: int = _option(
        CALLS_OF_A_CORE * available_cores(),
        number(1, 16_384, whole=True),
        f"calls at the same time, whatever the machine carries, in equal parts for all workers; "
        f"{CALLS_OF_A_CORE} for each core unless told otherwise",
    )
    rated_calls: int | None = _option(
        None,
        number(1, 1024, whole=True),
        "calls of one worker that are enhanced in time; further ones are refused; none: measured at start",
    )
    max_listeners: int = _option(
        256,
        number(0, 4096, whole=True),
        "listeners of one worker, who hear what others publish (WHEP); sixteen of them count as a call",
    )
    forward: str | None = _option(
        None,
        url,
        "WHIP endpoint of another server that what is published here is pushed to, enhanced; {room} in it stands "
        "for the room. Its token is in PERCEPNET_FORWARD_TOKEN",
    )
    forward_token: str | None = _secret(None)
    max_calls_per_address: int = _option(
        16,
        number(1, 1024, whole=True),
        "calls at the same time of one caller's address (IPv6: its /64); loopback has no limit",
        "CALLS",
    )
    offers_per_second: float = _option(
        5.0,
        number(0.01, 1000),
        "offers that one address may make in the long run, four seconds' worth at once; loopback has no limit",
        "OFFERS",
    )
    connect_timeout: float = _option(15.0, number(0.1, 300), "seconds that a call has to connect")
    lost_time: float = _option(
        8.0, number(1, 300), "seconds without any packet after which a caller is taken for lost"
    )
    idle_time: float = _option(
        60.0, number(1, 7 * 86400), "seconds without audio after which a call is closed"
    )
    max_call_time: float = _option(4 * 3600.0, number(1, 7 * 86400), "seconds after which a call is closed")
    queue_packets: int = _option(
        BACKLOG_PACKETS,
        number(7, 50, whole=True),
        "20 ms packets of a call that may wait before the oldest is dropped",
    )
    ice_servers: tuple[IceServer, ...] = _option(
        (),
        IceServer.parse,
        "STUN or TURN server, stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT. Arguments can be seen "
        "in the list of processes: passwords are better off in the variable or --turn-secret-file",
    )
    turn_secret_file: Path | None = _option(
        None,
        path_of,
        "secret shared with the TURN servers that are given without a user, for passwords of limited time "
        "(coturn: use-auth-secret); or in PERCEPNET_TURN_SECRET",
    )
    turn_secret: str | None = _secret(None)
    advertise_address: str | None = _option(
        None, address, "address that callers reach, where this host has another (1:1 NAT)"
    )
    udp_ports: range | None = _option(None, ports, "UDP ports for calls, LOW-HIGH; none: any")
    workers: int = _option(
        available_cores(),
        number(1, 256, whole=True),
        "processes that share the calls; 1 serves without anything in front",
    )
    drain_time: float = _option(
        10.0,
        number(0, 86400),
        "seconds that calls may go on after SIGTERM, SIGINT or SIGHUP; a second of the first two closes them at once",
    )
    log_format: str = _option(
        "text", one_of(*FORMATS), "log lines as text, or as JSON with the call's short id in a field"
    )
    log_level: str = _option(
        "info", one_of(*LEVELS), f"least important lines that are logged: {', '.join(LEVELS)}"
    )
    opus_bitrate: int = _option(
        64_000,
        number(LOWEST_BITRATE, HIGHEST_BITRATE, whole=True),
        f"bits per second of Opus at most, both ways; {LOWEST_BITRATE} to {HIGHEST_BITRATE}",
    )
    opus_stereo: bool = _option(
        False, switch, "on or off: Opus in stereo, both channels the same, where asked for"
    )
    opus_fec: bool = _option(
        False, switch, "on or off: Opus carries a copy of the packet before, at almost three times the cost"
    )
    opus_dtx: bool = _option(False, switch, "on or off: Opus sends no packets in pauses")

    @property
    def opus(self) -> OpusOptions:
        return OpusOptions(
            bitrate=self.opus_bitrate, stereo=self.opus_stereo, fec=self.opus_fec, dtx=self.opus_dtx
        )

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add an argument for each option that is no secret; those not given stay out of the namespace."""
        parser.description = (
            f"{parser.description} Options may be in the environment, too, as {ENVIRONMENT_PREFIX}UDP_PORTS for"
            " --udp-ports."
        )
        for option in fields(cls):
            if "parse" not in option.metadata:
                continue
            name = option.name.replace("_", "-").removesuffix("s" if _is_repeatable(option) else "")
            shown = "none" if option.default in (None, ()) else option.default
            if isinstance(shown, bool):
                shown = "on" if shown else "off"
            several = f"; repeatable, or in {_variable(option)} with spaces between"
            parser.add_argument(
                f"--{name}",
                dest=option.name,
                type=for_argparse(option.metadata["parse"]),
                action="append" if _is_repeatable(option) else "store",
                default=argparse.SUPPRESS,
                metavar=option.metadata["value"] or name.rpartition("-")[2].upper(),
                help=f"{option.metadata['help']}{several if _is_repeatable(option) else ''} (default: {shown})",
            )

    @classmethod
    def from_arguments(
        cls, arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """Options given as arguments, else in the environment, else the defaults; an empty variable gives none.

        Raises ``ValueError`` that names the variable and what is allowed. Variables of options that may be
        given several times hold any number of values with spaces between.
        """
        values: dict[str, Any] = {}
        for option in fields(cls):
            variable = _variable(option)
            parse = option.metadata.get("parse", _printable)
            if hasattr(arguments, option.name):
                given = getattr(arguments, option.name)
                values[option.name] = tuple(given) if _is_repeatable(option) else given
            # Secrets of Kubernetes often end with a line break.
            elif text := environment.get(variable, "").strip():
                try:
                    values[option.name] = (
                        tuple(map(parse, text.split())) if _is_repeatable(option) else parse(text)
                    )
                except ValueError as error:
                    raise ValueError(f"{variable}: {error}") from None
        return cls(**values)

    @classmethod
    def misspelt(cls, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Variables that are none of an option's but nearly, and those that were meant."""
        known = [_variable(option) for option in fields(cls)]
        unknown = [name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known]
        found = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.9) for name in unknown}
        return {name: match[0] for name, match in found.items() if match}


def _variable(option: Field[Any]) -> str:
    return ENVIRONMENT_PREFIX + option.name.upper()


def _printable(secret: str) -> str:
    if not secret.isprintable():
        raise ValueError("must hold no control characters")
    return secret


def _is_repeatable(option: Field[Any]) -> bool:
    return isinstance(option.default, tuple)


def for_argparse(parse: Parse) -> Parse:
    """argparse shows the text of its own error only."""

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
