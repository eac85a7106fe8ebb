"""The command as others call it."""

from pathlib import Path

from percepnet.cli import main


def percepnet(*arguments: str | Path) -> int:
    """The exit status, also where argparse leaves."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as left:
        return int(left.code or 0)
