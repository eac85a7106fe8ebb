"""Whether aiortc and aioice are built as our adapters need them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import aioice
import aiortc

MADE_FOR: Final = "aiortc 1.15 to 1.16 with aioice 0.10 to 0.13"

logger = logging.getLogger(__name__)


def lacking(thing: object, kinds: Mapping[str, type]) -> list[str]:
    """The names of attributes that ``thing`` does not have, or has of another kind."""
    return [name for name, kind in kinds.items() if not isinstance(getattr(thing, name, None), kind)]


def fits(missing: Sequence[str], adapter: str, instead: str) -> bool:
    """Whether nothing is ``missing``; else a warning tells what becomes of calls ``instead`` of the ``adapter``."""
    if missing:
        logger.warning(
            "aiortc %s with aioice %s is not built like %s, which %s was made for (no %s): %s",
            *(aiortc.__version__, aioice.__version__, MADE_FOR, adapter, ", ".join(missing), instead),
            stacklevel=2,  # log lines are limited by their place
        )
    return not missing
