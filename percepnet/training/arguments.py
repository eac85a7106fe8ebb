"""Options of ``percepnet train``."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from percepnet.cli.options import path_of, within
from percepnet.training import shards
from percepnet.training.losses import Loss
from percepnet.training.topologies import TOPOLOGIES

LOSS: Final = {  # option → field of Loss, its highest value, and what it is
    "--gamma": ("gamma", 1, "compression of gains"),
    "--speech-weight": ("speech", 100, "what a hop with speech weighs more"),
    "--over-weight": ("over", 100, "what gains that are too low in such a hop weigh more"),
    "--loudness": ("loudness", 1, "share of the error of loudness, in place of that of gains"),
    "--added-weight": ("added", 100, "what bands that are too loud weigh more in it"),
    "--distortion": ("distortion", 100, "what the distortion of speech weighs beside these"),
    "--onset-weight": (
        "onset",
        100,
        "what a clear word's beginning weighs more, where no teacher is followed then",
    ),
}
_TOY: Final = {
    "topology": "toy",
    "mixtures": 0.1,
    "steps": 120,
    "save_every": 20,
    "listen_every": 120,
    "batch": 16,
    "rate": 6e-3,
    "hops": 100,
    "threads": 1,
    "gamma": 0.5,
    "loudness": 0.0,  # P20's loss falls fastest
}


@dataclass(frozen=True)
class _Default:
    """The value of an option that was not given, until :func:`settle`."""

    value: Any

    def __str__(self) -> str:  # for --help
        return str(self.value)


def settle(args: argparse.Namespace) -> None:
    """Give the options that were not given their values: those of the preset, if there is one."""
    preset = _TOY if args.preset else {}
    for name, value in vars(args).items():
        if isinstance(value, _Default):
            setattr(args, name, preset.get(name, value.value))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``percepnet train``, for :func:`settle`."""
    parser.add_argument(
        "--data", type=path_of, required=True, help="folder with manifest.csv, or speech/ and noise/"
    )
    parser.add_argument(
        "--run",
        type=path_of,
        default=Path("runs/percepnet"),
        help="folder of the checkpoint and log (default: %(default)s)",
    )
    parser.add_argument(
        "--cache",
        type=path_of,
        default=Path("cache"),
        help="folder of decoded audio and shards (default: %(default)s)",
    )
    parser.add_argument(
        "--preset",
        choices=["toy"],
        help="toy: a tiny network, 120 steps, under a minute; what is given besides goes before it",
    )
    parser.add_argument(
        "--topology", choices=sorted(TOPOLOGIES), default="subband", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--mixtures",
        type=within(float, 0.01, 100_000),
        default=20,
        help="hours of different mixtures (default: %(default)s)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="make new mixtures all the time; --mixtures is how many hours of the newest are kept",
    )
    parser.add_argument(
        "--seed",
        type=within(int, 0, 10**9),
        default=0,
        help="with --fresh: number of the first shard (default: %(default)s)",
    )
    parser.add_argument(
        "--reuse",
        type=within(float, 0.01, 10**6),
        default=4,
        help="with --fresh: how often a mixture is heard on average; their makers wait for that (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=within(int, 1, 10**9), default=6000, help="optimiser steps (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes",
        type=within(float, 0.01, math.inf),
        default=math.inf,
        help="end after so long, if that comes before --steps",
    )
    parser.add_argument(
        "--batch", type=within(int, 1, 100_000), default=32, help="sequences in a step (default: %(default)s)"
    )
    parser.add_argument(
        "--hops",
        type=within(int, 1, shards.HOPS),
        default=200,
        help="10 ms hops of a mixture in one step; it goes on in the next (default: %(default)s)",
    )
    parser.add_argument(
        "--save-every",
        type=within(int, 1, 10**9),
        default=250,
        help="steps between checkpoints (default: %(default)s)",
    )
    parser.add_argument(
        "--listen-every",
        type=within(int, 1, 10**9),
        default=1000,
        help="steps between scores of what the network makes of validation mixtures (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=within(float, 1e-6, 1),
        default=2e-3,
        help="highest learning rate (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=within(int, 1, 256),
        default=1,
        help="processes that make mixtures (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=within(int, 1, 256),
        default=1,
        help="slices of a batch that are computed at once (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--bf16", action="store_true", help="multiply in bfloat16: twice as fast where the CPU can"
    )
    for option, (name, highest, what) in LOSS.items():
        parser.add_argument(
            option,
            dest=name,
            type=within(float, 0, highest),
            default=getattr(Loss, name),
            metavar="N",
            help=f"in the loss: {what}, 0 to {highest} (default: %(default)s)",
        )
    parser.add_argument(
        "--init",
        type=path_of,
        help="weights (.npz, as shipped) to begin a new run from; those of a narrower subband network grow",
    )
    parser.add_argument(
        "--variation",
        type=within(float, 0, 2),
        default=1.0,
        metavar="N",
        help="how much voices are equalised, warped and raised whenever they are heard, 0 to 2; a teacher bears more "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="learn from the answers of this model, a shipped one's name or an .onnx file, in place of the ideal ones",
    )
    parser.set_defaults(**{name: _Default(parser.get_default(name)) for name in _TOY})
