"""``percepnet weather [URL]``: what a call becomes in bad networks, beside a plain aiortc echo."""

import argparse
from pathlib import Path
from typing import Final

from percepnet.bench import machine
from percepnet.cli import FAILURE
from percepnet.cli.audio_files import read_mono
from percepnet.cli.measuring import ECHO, Found, add_output, add_server, check_server, tell, token
from percepnet.cli.options import path_of, within
from percepnet.cli.processes import end_in_order
from percepnet.cli.progress import progress_bar
from server.loadtest.speech import Speech
from server.weather import conditions
from server.weather.conditions import ALLOWED, CALM, TABLE, Weather
from server.weather.run import run as run_trials
from server.weather.run import servers
from server.weather.summary import page, table

CLEAN: Final = (  # in a wheel, and in a checkout; PESQ is made for speech without noise
    Path(conditions.__file__).with_name("clean.flac"),
    Path(__file__).parents[2] / "tests" / "recordings" / "clean.flac",
)
# as the echo is; a call costs little without enhancement
ALONE: Final = ("--workers", "1", "--rated-calls", "64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet weather``."""
    add_server(parser)
    parser.add_argument(
        "--conditions",
        type=_conditions,
        default=list(TABLE),
        metavar="NAME,NAME,…",
        help=f"{ALLOWED}; several at once as loss-5+jitter-30 (default: {','.join(TABLE)})",
    )
    parser.add_argument(
        "--seconds",
        type=within(float, CALM + 4, 600),
        default=20.0,
        help=f"of each call, {CALM:g} s of calm at its beginning included (default: 20)",
    )
    parser.add_argument("--seed", type=within(int, 0, 2**31), default=1, help="of all chance (default: 1)")
    parser.add_argument(
        "--both-ways", action="store_true", help="the weather meets what the server sends, too"
    )
    parser.add_argument(
        "--at-once", type=within(int, 1, 64), default=1, metavar="N", help="conditions at a time (default: 1)"
    )
    parser.add_argument(
        "--recording", type=path_of, metavar="FILE", help="what is said (default: the tests' clean recording)"
    )
    parser.add_argument(
        "--echo",
        type=path_of,
        default=ECHO,
        metavar="SCRIPT",
        help="of the plain echo (default: the load test's)",
    )
    parser.add_argument("--no-echo", action="store_true", help="only the server")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Makes the calls; prints a table or JSON. 1 where the server lost one."""
    import percepnet.evaluation  # noqa: F401  # what it needs is missed now, and not after the first call

    end_in_order()
    check_server(args.url, args.server_options, args.url is None)
    if not args.no_echo and not args.echo.is_file():
        raise FileNotFoundError(2, "no echo server; give --echo SCRIPT or --no-echo", str(args.echo))
    default = next(filter(Path.is_file, CLEAN), CLEAN[0])
    speech = Speech.of(read_mono(args.recording or default))
    with servers(args.url, None if args.no_echo else args.echo, [*ALONE, *args.server_options]) as addresses:
        calls = len(args.conditions) * len(addresses)
        with progress_bar(calls, "calls", quiet=args.quiet) as bar:
            results = run_trials(
                addresses,
                args.conditions,
                speech,
                seconds=args.seconds,
                seed=args.seed,
                both_ways=args.both_ways,
                at_once=args.at_once,
                token=token(args.token_file),
                progress=lambda done: bar.update(done - bar.n),
            )
    options = {"seconds": args.seconds, "seed": args.seed, "both_ways": args.both_ways}
    found: Found = {"machine": machine(), "options": options, "results": results}
    tell(args, found, _text, page)
    lost = [one for one in results if one["server_name"] == next(iter(addresses)) and one["outcome"] != "ok"]
    return FAILURE if lost else 0


def _text(found: Found) -> str:
    machine = "{processor}, {cores} cores, {system}; {date}".format(**found["machine"])
    return f"{machine}\n{table(found['results'])}"


def _conditions(text: str) -> list[str]:
    names = text.split(",")
    try:
        for name in names:
            Weather.parse(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return names
