"""``percepnet load URL``: synthetic callers, what a call costs the server, and how good it is."""

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from percepnet.bench import machine
from percepnet.cli import FAILURE, INTERRUPTED
from percepnet.cli.audio_files import read_mono
from percepnet.cli.options import counts, path_of, within
from percepnet.cli.processes import end_in_order
from percepnet.cli.progress import add_quiet, progress_bar
from server import loadtest, secretfile
from server.app import static_folder
from server.loadtest import summary
from server.loadtest.callers import News
from server.loadtest.compare import compare, contestants
from server.loadtest.leaks import in_a_row
from server.loadtest.options import Load
from server.loadtest.page import page
from server.loadtest.result import result
from server.loadtest.run import Run
from server.loadtest.run import run as run_load
from server.loadtest.speech import Speech
from server.loadtest.watch import Watch, watcher
from server.weather.conditions import Weather

MOST_CALLS: Final = 10_000
LONGEST: Final = 86_400  # s
ECHO: Final = Path(loadtest.__file__).with_name("echo_server.py")


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
    if (args.url is None) == (args.compare is None):
        raise ValueError("give the URL of a server, or --compare to start two")
    check_server(args.url, args.server_options, args.compare is not None)
    if args.compare is not None and not args.compare.is_file():
        raise FileNotFoundError(2, "no echo server; give --compare SCRIPT", str(args.compare))
    if args.compare is not None and args.pid is not None:
        raise ValueError(f"--pid {args.pid}: of a running server; --compare starts its own")
    if args.repeat and len(args.calls) > 1:
        raise ValueError(f"--repeat goes with one number of calls, not with {len(args.calls)}")
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

    found: dict[str, Any] = {"machine": machine()}
    if args.compare:
        servers = contestants(args.compare, args.server_options)

        def one(url: str, watch: Watch | None, calls: int) -> dict[str, Any]:
            return result(measure(replace(load, url=url, calls=calls), watch))

        found["comparison"] = compare(servers, args.calls, one)
        found["steps"] = found["comparison"].pop("steps")
    else:
        watch = watcher(args.url, args.pid, load.token)
        if watch is None:
            print(f"percepnet: {_unseen(args.url, args.pid, load.token)}", file=sys.stderr)
        if load.repeat:
            load = replace(load, calls=args.calls[0])
            runs, found["in_a_row"] = in_a_row(load, lambda part: measure(part, watch))
            found["steps"] = [result(run) for run in runs]
        else:
            found["steps"] = []
            for calls in args.calls:
                found["steps"].append(result(measure(replace(load, calls=calls), watch)))
                if found["steps"][-1]["interrupted"]:
                    break
    print(json.dumps(found, indent=2) if args.json else _text(found))
    if args.report:  # after the figures: where it finds no room, they are told
        args.report.write_text(page(found), encoding="utf-8")
    if found["steps"][-1]["interrupted"]:
        return INTERRUPTED
    return 0 if any(step["overall"]["calls"]["ok"] for step in found["steps"]) else FAILURE


def shown(load: Load, speech: Speech, watch: Watch | None, *, quiet: bool) -> Run:
    """Run ``load``, with a progress bar."""
    with progress_bar(round(load.total, 1), "s", quiet=quiet) as bar:

        def progress(seconds: float, news: News) -> None:
            bar.set_description(
                f"{news.live} of {load.calls} calls, {news.refused} refused, {news.failed} failed",
                refresh=False,
            )
            bar.update(min(seconds, bar.total or 0) - bar.n)

        return run_load(load, speech, watch, progress)


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--json``, ``--report``, ``--quiet``."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--report", type=path_of, metavar="FILE", help="a page of plots (.html)")
    add_quiet(parser)


def add_server(parser: argparse.ArgumentParser) -> None:
    """``url`` of a server, or ``--server-options`` of one that is started, and its ``--token-file``."""
    parser.add_argument("url", nargs="?", metavar="URL", help="of a running server (default: one is started)")
    parser.add_argument(
        "--server-options", type=shlex.split, default=[], metavar="TEXT", help="of the server that is started"
    )
    add_token(parser)


def check_server(url: str | None, options: list[str], started: bool) -> None:
    """ValueError for a ``url`` that is none, and for options of a server that nobody starts."""
    if url is not None and not re.fullmatch("https?://[^/]+.*", url):
        raise ValueError(f"{url!r} is no URL of a server; allowed are those like http://127.0.0.1:8080")
    if options and not started:
        raise ValueError(
            f"--server-options {shlex.join(options)}: of a server that is started; {url} runs already"
        )


def _unseen(url: str, pid: int | None, token: str | None) -> str:
    """Why nothing is known of the server's load."""
    if pid is not None:
        return f"--pid {pid}: no such process; what calls cost the server is not shown"
    wanted = "another token" if token else "a token"
    return f"{url}/stats does not answer, or wants {wanted}: with one, or --pid, it is shown what calls cost"


def add_token(parser: argparse._ActionsContainer) -> None:
    """``--token-file``."""
    parser.add_argument(
        "--token-file",
        type=path_of,
        metavar="FILE",
        help="the first line has the token that the server asks for; or in PERCEPNET_TOKEN",
    )


def token(path: Path | None) -> str | None:
    """The first of a file, else that of the environment, if there is one."""
    if path is None:
        return os.environ.get("PERCEPNET_TOKEN")
    tokens = [token for _, token in secretfile.read(path)]
    if not tokens:
        raise ValueError(f"no token is in {path}")
    return tokens[0]


def _text(found: dict[str, Any]) -> str:
    parts = ["{processor}, {cores} cores, {system}; {date}".format(**found["machine"])]
    parts.append(summary.table(found["steps"]))
    if "comparison" in found:
        parts.append(summary.verdict(found["comparison"]))
    else:
        parts.append(summary.details(found["steps"][-1]))
    if "in_a_row" in found:
        parts.append(summary.held(found["in_a_row"]))
    return "\n\n".join(parts)
