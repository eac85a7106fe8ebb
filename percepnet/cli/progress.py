"""Progress on the error stream, for people only."""

import argparse
import sys
from typing import Any

from tqdm import tqdm


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """The option that every command with a progress bar has."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no summary")


def progress_bar(total: float, what: str, *, quiet: bool) -> Any:
    """A bar of ``total`` ``what`` on stderr; nothing where that is no terminal or is closed, or where ``quiet``."""
    layout = "{l_bar}{bar}| {n:.4g}/{total:.4g} {unit} [{elapsed}<{remaining}]"
    nobody = True if quiet or sys.stderr is None else None  # None: where it is no terminal
    return tqdm(total=total, unit=what, bar_format=layout, disable=nobody, leave=False)
