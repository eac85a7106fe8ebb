"""Secrets in files: unlike arguments they are seen by nobody else, and unlike variables by no child process."""

import logging
import os
from pathlib import Path
from typing import Final

OTHERS: Final = 0o077  # permissions that are none of the owner's

logger = logging.getLogger(__name__)


def read(path: Path) -> list[tuple[int, str]]:
    """The secrets, one a line, and the numbers of their lines; blank lines and those that begin with # are none."""
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        status = os.fstat(file.fileno())
        # one that a container gets from outside is not its own to close
        if status.st_mode & OTHERS and status.st_uid == os.geteuid():
            logger.warning("%s can be read by others: chmod 600 would keep what is in it secret", path)
        lines = [line.strip() for line in file]
    return [(n, line) for n, line in enumerate(lines, 1) if line and not line.startswith("#")]


def one(path: Path, what: str) -> str:
    """The only secret in a file; ``ValueError`` that says ``what`` it must hold, and not what it holds."""
    found = read(path)
    if len(found) != 1:
        raise ValueError(f"{path}: must have one line, {what}; it has {len(found)}")
    return found[0][1]
