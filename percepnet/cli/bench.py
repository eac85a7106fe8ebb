"""``percepnet bench``: processor time per call, on this machine."""

import argparse
import contextlib
import json
from typing import Final

from percepnet import native
from percepnet.bench import Load, machine, measure, report
from percepnet.cli.options import add_enhancer_options, counts, within
from percepnet.cli.progress import add_quiet, progress_bar

MOST_STREAMS: Final = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet bench``."""
    parser.add_argument(
        "--streams",
        type=counts(MOST_STREAMS),
        default=[1, 8, 16, 32, 64],
        metavar="N,N,…",
        help="how many calls at once (default: 1,8,16,32,64)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument(
        "--seconds",
        type=within(float, 0.1, 3600),
        default=6.0,
        help="audio of every stream in a run (default: 6)",
    )
    parser.add_argument(
        "--repeats", type=within(int, 1, 100), default=3, help="runs, of which the median counts (default: 3)"
    )
    parser.add_argument(
        "--numpy", action="store_true", help="as where there was no C compiler to install with"
    )
    add_enhancer_options(parser, limit=False)
    add_quiet(parser)


def run(args: argparse.Namespace) -> None:
    """Measures every number of streams and prints a table or JSON."""
    loads = []
    with (
        native.disabled() if args.numpy else contextlib.nullcontext(),
        progress_bar(len(args.streams) * args.repeats, "runs", quiet=args.quiet) as bar,
    ):
        for streams in args.streams:
            load = measure(
                streams,
                seconds=args.seconds,
                repeats=args.repeats,
                model=args.model,
                postfilter=args.postfilter,
                progress=lambda: bar.update(1),
            )
            loads.append(load)
        print(json.dumps(report(loads), indent=2) if args.json else table(loads))


def table(loads: list[Load]) -> str:
    """The figures for people: percent of one core per stream."""
    where = machine()
    lines = [
        "{processor}, {cores} cores, {system}".format(**where),
        "Python {python}, numpy {numpy}, onnxruntime {onnxruntime}; {date}".format(**where),
        "signal processing: {signal_processing}".format(**where),
        "",
        f"{'streams':>7}  {'% of a core':>11}  {'network':>7}  {'signal':>7}  {'20 ms: p50':>10}  {'p99':>9}",
    ]
    for load in loads:
        lines.append(
            f"{load.streams:>7}  {load.cpu:>11.2%}  {load.network:>7.2%}  {load.signal_processing:>7.2%}  "
            f"{load.p50_ms:>7.2f} ms  {load.p99_ms:>6.2f} ms"
        )
    return "\n".join(lines)
