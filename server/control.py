"""The data channel named ``control``: controls in, live figures out, as JSON texts.

In: any subset of the controls, as in ``PATCH /calls/{id}``, e.g. ``{"enabled": false}``.
Out: ``{"type": "controls", "controls": {…}}`` after each change; ``{"type": "error", "error": "…"}`` for a
bad message; five times a second ``{"type": "figures", …}`` with what ``GET /calls/{id}`` returns.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import ClassVar, Final

from aiortc import RTCDataChannel

from .allowance import Allowance
from .controls import Changes, checked

MOST_ANSWERS: Final = 100.0  # a second in the long run; a slider in motion asks for 60
LONGEST_MESSAGE: Final = 4096  # characters or bytes
MOST_BUFFERED: Final = 64 * 1024  # bytes; what is said while a slow caller has not fetched these is skipped

logger = logging.getLogger(__name__)


class ControlChannel:
    """Serves one channel: ``turn`` takes checked changes, ``report`` gives the call's state."""

    LABEL: ClassVar = "control"

    def __init__(
        self,
        channel: RTCDataChannel,
        turn: Callable[[Changes], None],
        report: Callable[[], dict[str, object]],
    ) -> None:
        self._channel = channel
        self._turn = turn
        self._report = report
        self._allowance = Allowance(MOST_ANSWERS)
        channel.on("message", self._on_message)

    @property
    def closed(self) -> bool:
        """Whether the caller has closed it, or is about to."""
        return self._channel.readyState in ("closing", "closed")

    def push(self, figures: dict[str, object]) -> None:
        """Send live figures, unless the channel is closed or its caller does not keep up."""
        self._send({"type": "figures", **figures})

    def _on_message(self, message: str | bytes) -> None:
        """Obey, and answer unless there are so many questions that it would cost others their time."""
        answered = self._allowance.take(time.monotonic())
        try:
            if len(message) > LONGEST_MESSAGE:
                raise ValueError(f"a message may have {LONGEST_MESSAGE} characters, not {len(message)}")
            self._turn(checked(json.loads(message)))
        except (ValueError, RecursionError) as error:
            if answered:
                self._send({"type": "error", "error": str(error)})
            return
        if answered:
            self._send({"type": "controls", "controls": self._report()["controls"]})

    def _send(self, message: dict[str, object]) -> None:
        # Answers, too: a caller that sends without fetching them would fill the memory.
        if self._channel.readyState == "open" and self._channel.bufferedAmount < MOST_BUFFERED:
            self._channel.send(json.dumps(message))
