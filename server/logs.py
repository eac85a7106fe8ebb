"""Log lines on the error stream: for people, or one JSON object each; a call's lines say whose they are.

A call's short id goes with the context (:mod:`contextvars`) to all tasks and sockets that begin while it is set,
aiortc's too, so that their lines have it without knowing of it.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

from .loglimit import LogLimit

FORMATS: Final = ("text", "json")
LEVELS: Final = ("debug", "info", "warning", "error")

_call: ContextVar[str] = ContextVar("call", default="")


@contextmanager
def about(call: str) -> Iterator[None]:
    """What is logged inside, and by all that is begun inside, is of the call with that short id."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)


def current_call() -> str:
    """Short id of the call that what runs now is for; "" for none."""
    return _call.get()


def log_to_stderr(level: int | str, worker: int | None = None, form: str = "text") -> None:
    """Log lines that say which worker wrote them and about which call, and not more than anybody can read."""
    logging.basicConfig(level=level.upper() if isinstance(level, str) else level)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Json(worker) if form == "json" else _Text(worker))
        handler.addFilter(_named)
        handler.addFilter(_without_request)
        handler.addFilter(LogLimit())


def _named(record: logging.LogRecord) -> bool:
    """Give a record its call; one that another thread writes about a call brings it along."""
    if not hasattr(record, "call"):
        record.call = current_call()
    return True


def _without_request(record: logging.LogRecord) -> bool:
    """Leave out what a request held that is no HTTP: aiohttp quotes it, be it a token or a call's id, as an error."""
    if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
        record.exc_info = None
        record.levelno = min(record.levelno, logging.WARNING)
        record.levelname = logging.getLevelName(record.levelno)
        return logging.getLogger(record.name).isEnabledFor(record.levelno)
    return True


class _Text(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        who = "" if worker is None else f"worker {worker} "
        super().__init__(f"%(asctime)s %(levelname)s {who}%(name)s: %(about)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        call = getattr(record, "call", "")
        record.about = f"call {call}: " if call else ""
        return super().format(record)


class _Json(logging.Formatter):
    """Only these fields and no others, so that nothing gets into a log by being attached to a record."""

    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._who = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        call = getattr(record, "call", "")
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._who,
            **({"call": call} if call else {}),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
