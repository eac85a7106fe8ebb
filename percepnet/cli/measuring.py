"""What the commands that measure a server share: its URL or start, its token, and how they tell what they found."""

import argparse
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from percepnet.cli.options import path_of
from percepnet.cli.progress import add_quiet, progress_bar
from server import loadtest, secretfile
from server.loadtest.callers import News
from server.loadtest.options import Load
from server.loadtest.run import Run, run
from server.loadtest.speech import Speech
from server.loadtest.watch import Watch

ECHO: Final = Path(loadtest.__file__).with_name("echo_server.py")

Found = dict[str, Any]  # in plain types, ready for JSON


def add_server(parser: argparse.ArgumentParser) -> None:
    """``url`` of a server, or ``--server-options`` of one that is started, and its ``--token-file``."""
    parser.add_argument("url", nargs="?", metavar="URL", help="of a running server (default: one is started)")
    parser.add_argument(
        "--server-options", type=shlex.split, default=[], metavar="TEXT", help="of the server that is started"
    )
    add_token(parser)


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


def check_server(url: str | None, options: list[str], started: bool) -> None:
    """ValueError for a ``url`` that is none, and for options of a server that nobody starts."""
    if url is not None and not re.fullmatch("https?://[^/]+.*", url):
        raise ValueError(f"{url!r} is no URL of a server; allowed are those like http://127.0.0.1:8080")
    if options and not started:
        raise ValueError(
            f"--server-options {shlex.join(options)}: of a server that is started; {url} runs already"
        )


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--json``, ``--report``, ``--quiet``."""
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--report", type=path_of, metavar="FILE", help="a page of plots (.html)")
    add_quiet(parser)


def tell(
    args: argparse.Namespace, found: Found, text: Callable[[Found], str], page: Callable[[Found], str]
) -> None:
    """Print what was found as ``text`` or JSON, and write its ``page`` where a report is wanted."""
    print(json.dumps(found, indent=2) if args.json else text(found))
    if args.report:  # after the figures: where it finds no room, they are told
        args.report.write_text(page(found), encoding="utf-8")


def shown(load: Load, speech: Speech, watch: Watch | None, *, quiet: bool) -> Run:
    """Run ``load``, with a progress bar."""
    with progress_bar(round(load.total, 1), "s", quiet=quiet) as bar:

        def progress(seconds: float, news: News) -> None:
            bar.set_description(
                f"{news.live} of {load.calls} calls, {news.refused} refused, {news.failed} failed",
                refresh=False,
            )
            bar.update(min(seconds, bar.total or 0) - bar.n)

        return run(load, speech, watch, progress)
