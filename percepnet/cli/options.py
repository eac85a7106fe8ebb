"""Options that several commands share, and the checks of their values."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from percepnet.cli.cores import available_cores
from percepnet.enhancer import MAX_ATTENUATION_LIMIT_DB
from percepnet.network import DEFAULT_MODEL
from percepnet.peers import PEERS


def add_enhancer_options(parser: argparse.ArgumentParser, *, limit: bool = True) -> None:
    """How the enhancer is set: ``model``, ``postfilter`` and, with ``limit``, ``attenuation_limit_db``."""
    group = parser.add_argument_group("enhancer")
    group.add_argument(
        "--model",
        type=path_of,
        metavar="MODEL",
        help=f"a shipped network or an .onnx file (default: {DEFAULT_MODEL.stem})",
    )
    group.add_argument(
        "--no-postfilter", dest="postfilter", action="store_false", help="leave the envelope post-filter out"
    )
    if limit:
        group.add_argument(
            "--attenuation-limit-db",
            type=within(float, 0, MAX_ATTENUATION_LIMIT_DB),
            metavar="DB",
            help=f"most that anything is attenuated by, 0 to {MAX_ATTENUATION_LIMIT_DB:g} dB (default: no limit)",
        )


def enhancer_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What these options say, as keyword arguments of ``Enhancer``."""
    return {name: getattr(args, name) for name in ("model", "postfilter", "attenuation_limit_db")}


def add_peers(parser: argparse.ArgumentParser, verb: str) -> None:
    """``--peers``: other suppressors to ``verb`` as well."""
    parser.add_argument(
        "--peers",
        type=_peers,
        default=(),
        metavar="NAMES",
        help=f"other suppressors to {verb} too, with commas between: {', '.join(PEERS)}",
    )


def _peers(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(unknown)} is not allowed; allowed are {', '.join(PEERS)}"
        )
    return names


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """``--jobs``: how many processes share the work."""
    cores = available_cores()
    parser.add_argument(
        "--jobs",
        type=within(int, 1, cores),
        default=cores,
        metavar="N",
        help=f"processes that share the work, 1 to {cores} (default: {cores}, the processor's cores)",
    )


def named(text: str) -> str:
    """A converter for argparse: an empty name is mostly a variable of the shell that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name; allowed are names of one character or more")
    return text


def path_of(text: str) -> Path:
    """A converter for argparse: an empty name is not the current directory."""
    return Path(named(text))


def within(kind: type[float] | type[int], lowest: float, highest: float) -> Callable[[str], float]:
    """A converter for argparse that allows ``kind`` from ``lowest`` to ``highest``."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not lowest <= value <= highest:
            name = "whole numbers" if kind is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"{text} is not allowed; allowed are {name} from {lowest:g} to {highest:g}"
            )
        return value

    return convert


def counts(highest: int) -> Callable[[str], list[int]]:
    """A converter for argparse: ``1,8,16`` as numbers from 1 to ``highest``."""
    check = within(int, 1, highest)
    return lambda text: [int(check(part)) for part in text.split(",")]
