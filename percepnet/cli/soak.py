"""``percepnet soak [URL]``: calls that come, go, lose and turn controls for long; does the server stay as it is?"""

import argparse

from percepnet.bench import machine
from percepnet.cli import FAILURE, INTERRUPTED
from percepnet.cli.audio_files import read_mono
from percepnet.cli.measuring import Found, add_output, add_server, check_server, shown, tell, token
from percepnet.cli.options import within
from percepnet.cli.processes import end_in_order
from server.app import static_folder
from server.loadtest.options import Load
from server.loadtest.speech import Speech
from server.loadtest.watch import watcher
from server.weather.conditions import Weather
from server.weather.run import servers
from server.weather.soak import is_flat, judge, page, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet soak``."""
    seconds = within(float, 0.1, 3600)
    add_server(parser)
    parser.add_argument("--minutes", type=within(float, 0.05, 1440), default=10.0, help="(default: 10)")
    parser.add_argument("--calls", type=within(int, 1, 1000), default=4, help="at once (default: 4)")
    parser.add_argument(
        "--churn",
        type=seconds,
        default=20.0,
        help="seconds until a caller hangs up and calls again (default: 20)",
    )
    parser.add_argument(
        "--toggle",
        type=seconds,
        default=5.0,
        help="seconds until it turns suppression off or on (default: 5)",
    )
    parser.add_argument(
        "--loss", type=within(float, 0, 100), default=2.0, help="%% of packets that get lost (default: 2)"
    )
    parser.add_argument(
        "--jitter",
        type=within(float, 0, 1000),
        default=20.0,
        help="ms that packets are late at most (default: 20)",
    )
    parser.add_argument("--seed", type=within(int, 0, 2**31), default=1, help="of all chance (default: 1)")
    parser.add_argument("--processes", type=within(int, 1, 64), default=1, help="of callers (default: 1)")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the soak; prints a table or JSON. 1 where a quantity has grown or a call has failed, 130 after Ctrl-C,
    which still reports."""
    end_in_order()
    check_server(args.url, args.server_options, args.url is None)
    speech = Speech.of(read_mono(static_folder() / "audio" / "sample.flac"))
    with servers(args.url, None, args.server_options) as addresses:
        (url,) = addresses.values()
        load = Load(
            url=url,
            calls=args.calls,
            seconds=60 * args.minutes,
            weather=Weather(loss=args.loss, jitter=args.jitter),
            churn=args.churn,
            toggle=args.toggle,
            retry=True,
            control_channel=True,
            processes=args.processes,
            token=token(args.token_file),
            seed=args.seed,
        )
        seen = shown(load, speech, watcher(url, token=load.token), quiet=args.quiet)
    found: Found = {"machine": machine(), **judge(seen)}
    tell(args, found, summary, page)
    if found["load"]["interrupted"]:
        return INTERRUPTED
    calls = found["load"]["overall"]["calls"]
    return 0 if is_flat(found) and calls["ok"] and not calls["failed"] + calls["broken"] else FAILURE
