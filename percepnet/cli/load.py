"""``percepnet load URL``: synthetic callers, what a call costs the server, and how good it is."""

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from percepnet.bench import machine
from percepnet.cli import FAILURE, INTERRUPTED
from percepnet.cli.audio_files import read_mono
from percepnet.cli.measuring import ECHO, Found, add_output, add_token, check_server, shown, tell, token
from percepnet.cli.options import counts, path_of, within
from percepnet.cli.processes import end_in_order
from server.app import static_folder
from server.loadtest import summary
from server.loadtest.compare import compare, contestants
from server.loadtest.leaks import in_a_row
from server.loadtest.options import Load
from server.loadtest.page import page
from server.loadtest.result import result
from server.loadtest.run import Run
from server.loadtest.speech import Speech
from server.loadtest.watch import Watch, watcher
from server.weather.conditions import Weather

MOST_CALLS: Final = 10_000
LONGEST: Final = 86_400  # s

Measure = Callable[[Load, Watch | None], Run]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet load``."""
    seconds = within(float, 0.1, LONGEST)
    parser.add_argument("url", nargs="?", metavar="URL", help="of the server, such as http://127.0.0.1:8080")
    parser.add_argument(
        "--calls",
        type=counts(MOST_CALLS),
        default=[1],
        metavar="N,N,…",
        help="at once; several: a curve (default: 1)",
    )
    parser.add_argument(
        "--ramp", type=within(float, 0.01, 1000), default=2.0, help="calls begun in a second (default: 2)"
    )
    parser.add_argument(
        "--seconds", type=seconds, default=20.0, help="from the last call's begin to the end (default: 20)"
    )
    parser.add_argument("--seed", type=within(int, 0, 2**31), default=1, help="of all chance (default: 1)")
    parser.add_argument("--processes", type=within(int, 1, 64), default=1, help="of callers (default: 1)")
    parser.add_argument(
        "--recording",
        type=path_of,
        metavar="FILE",
        help="what is said; noisy, or nothing tells whether calls are enhanced (default: the page's sample)",
    )

    network = parser.add_argument_group("network between callers and server")
    network.add_argument(
        "--loss", type=within(float, 0, 100), default=0.0, help="%% of packets that get lost (default: 0)"
    )
    network.add_argument(
        "--jitter",
        type=within(float, 0, 1000),
        default=0.0,
        help="ms that packets are late by, at most (default: 0)",
    )

    habits = parser.add_argument_group("habits of callers")
    habits.add_argument(
        "--churn", type=seconds, metavar="SECONDS", help="hang up after so long, and come back"
    )
    habits.add_argument(
        "--toggle", type=seconds, metavar="SECONDS", help="turn suppression off and on so often"
    )
    habits.add_argument(
        "--repeat",
        type=within(int, 1, 100_000),
        metavar="N",
        help="calls in a row, and what they leave behind",
    )
    habits.add_argument("--retry", action="store_true", help="try again when refused, after Retry-After")
    habits.add_argument(
        "--control-channel",
        action="store_true",
        help="open the data channel, as the page does, for live figures",
    )

    server = parser.add_argument_group("server")
    add_token(server)
    server.add_argument("--pid", type=int, help="its process, to be looked at where it has no /stats")
    server.add_argument(
        "--compare",
        type=path_of,
        nargs="?",
        const=ECHO,
        metavar="SCRIPT",
        help="start servers instead: ours and an echo server (default: one of plain aiortc), pinned to one core, "
        "callers on the others; look for the largest number of calls that each carries",
    )
    server.add_argument(
        "--server-options", type=shlex.split, default=[], metavar="TEXT", help="of ours, with --compare"
    )

    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the loads; prints a table or JSON. 1 where no call was made, 130 after Ctrl-C, which still reports."""
    end_in_order()
    _check(args)
    speech = Speech.of(read_mono(args.recording or static_folder() / "audio" / "sample.flac"))
    load = Load(
        url=args.url or "",
        ramp=args.ramp,
        seconds=args.seconds,
        weather=Weather(loss=args.loss, jitter=args.jitter),
        churn=args.churn,
        toggle=args.toggle,
        repeat=args.repeat,
        retry=args.retry,
        control_channel=args.control_channel,
        processes=args.processes,
        seed=args.seed,
        token=token(args.token_file),
    )

    def measure(load: Load, watch: Watch | None) -> Run:
        return shown(load, speech, watch, quiet=args.quiet)

    found: Found = {"machine": machine()}
    found |= _compared(args, load, measure) if args.compare else _measured(args, load, measure)
    tell(args, found, _text, page)
    if found["steps"][-1]["interrupted"]:
        return INTERRUPTED
    return 0 if any(step["overall"]["calls"]["ok"] for step in found["steps"]) else FAILURE


def _check(args: argparse.Namespace) -> None:
    """ValueError or FileNotFoundError for options that do not go together."""
    if (args.url is None) == (args.compare is None):
        raise ValueError("give the URL of a server, or --compare to start two")
    check_server(args.url, args.server_options, args.compare is not None)
    if args.compare is not None and not args.compare.is_file():
        raise FileNotFoundError(2, "no echo server; give --compare SCRIPT", str(args.compare))
    if args.compare is not None and args.pid is not None:
        raise ValueError(f"--pid {args.pid}: of a running server; --compare starts its own")
    if args.repeat and len(args.calls) > 1:
        raise ValueError(f"--repeat goes with one number of calls, not with {len(args.calls)}")


def _compared(args: argparse.Namespace, load: Load, measure: Measure) -> Found:
    """Ours and the echo, each under all the loads that it takes to find its limit."""

    def one(url: str, watch: Watch | None, calls: int) -> Found:
        return result(measure(replace(load, url=url, calls=calls), watch))

    comparison = compare(contestants(args.compare, args.server_options), args.calls, one)
    steps = comparison.pop("steps")
    return {"comparison": comparison, "steps": steps}


def _measured(args: argparse.Namespace, load: Load, measure: Measure) -> Found:
    """The server at the URL: one load after the other, or calls in a row."""
    watch = watcher(args.url, args.pid, load.token)
    if watch is None:
        print(f"percepnet: {_unseen(args.url, args.pid, load.token)}", file=sys.stderr)
    if load.repeat:
        runs, leaks = in_a_row(replace(load, calls=args.calls[0]), lambda part: measure(part, watch))
        return {"in_a_row": leaks, "steps": [result(run) for run in runs]}
    steps: list[Found] = []
    for calls in args.calls:
        steps.append(result(measure(replace(load, calls=calls), watch)))
        if steps[-1]["interrupted"]:
            break
    return {"steps": steps}


def _unseen(url: str, pid: int | None, token: str | None) -> str:
    """Why nothing is known of the server's load."""
    if pid is not None:
        return f"--pid {pid}: no such process; what calls cost the server is not shown"
    wanted = "another token" if token else "a token"
    return f"{url}/stats does not answer, or wants {wanted}: with one, or --pid, it is shown what calls cost"


def _text(found: Found) -> str:
    parts = ["{processor}, {cores} cores, {system}; {date}".format(**found["machine"])]
    parts.append(summary.table(found["steps"]))
    if "comparison" in found:
        parts.append(summary.verdict(found["comparison"]))
    else:
        parts.append(summary.details(found["steps"][-1]))
    if "in_a_row" in found:
        parts.append(summary.held(found["in_a_row"]))
    return "\n\n".join(parts)
