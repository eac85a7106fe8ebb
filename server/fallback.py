"""Enhancement that does not fail: where it would, or there is no time, a stream gets its dry audio as late."""

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np

from percepnet import Enhancer
from percepnet.framing import Float

from .controls import Changes
from .frames import PACKET

RETRY_PACKETS: Final = 250  # 5 s of dry audio after a fault, then the stream is tried again
WARM_UP_PACKETS: Final = 2  # computed but not heard before that: they fill the look-ahead
_HEARD: Final = 0  # phases of a stream that may be shed; from _HEARD + WARM_UP_PACKETS + 1 down it comes back
_LEAVING: Final = -1  # heard for one packet more, fading
_SHED: Final = -2
_RAMP: Final = np.linspace(0, 1, PACKET, dtype=np.float32)

logger = logging.getLogger(__name__)


class Fallback:
    """Wraps an ``Enhancer`` of so many ``streams``. Like it, it is for one thread.

    A step that raises is repeated for each of its streams alone, so that only the one at fault falls back.
    Such a stream is tried again after some seconds, alone and as new, and fades in when that goes well. Its
    first fault is logged, further ones are counted.

    One whose network gives no numbers the Enhancer itself leaves dry, and brings back as soon as it does; here that
    is only told and counted. Dry audio comes with each packet, see :class:`server.dry.DryLine`.

    A stream that is shed fades to its dry audio within one packet and costs nothing from then on. Restored, it
    begins as new, unheard for the warm-up, and fades in. Its controls can be turned meanwhile.
    """

    def __init__(self, enhancer: Enhancer, streams: int) -> None:
        self._enhancer = enhancer
        self._dry_for = np.zeros(streams, int)  # packets until a stream that failed is enhanced again
        self._faults = np.zeros(streams, int)
        self._numberless = np.zeros(streams, bool)  # the last packet was dry for lack of numbers
        self._phase = np.full(streams, _HEARD)
        self._calls = [""] * streams  # for logs

    def degraded(self, stream: int) -> bool:
        return self.failed(stream) or bool(self._numberless[stream])

    def failed(self, stream: int) -> bool:
        """Whether the stream's last packet was dry because a step of it raised, or one before."""
        return bool(self._dry_for[stream])

    def faults(self, stream: int) -> int:
        return int(self._faults[stream])

    def shed(self, stream: int) -> None:
        """Leave a stream dry from the packet after the next. One that fails anyway stays as it is."""
        if not self._dry_for[stream] and self._phase[stream] != _SHED:
            self._phase[stream] = _LEAVING if self._phase[stream] in (_HEARD, _LEAVING) else _SHED

    def restore(self, stream: int) -> None:
        """Bring a stream back that was shed."""
        if self._phase[stream] == _LEAVING:
            self._phase[stream] = _HEARD
        elif self._phase[stream] == _SHED:
            self._phase[stream] = _HEARD + WARM_UP_PACKETS + 1
            self._reset(stream)

    def is_shed(self, stream: int) -> bool:
        """Whether the stream's last packet was dry, wholly or in part, because it is shed."""
        return bool(self._phase[stream] != _HEARD)

    def renew(self, stream: int, controls: Changes, call: str = "") -> None:
        """Make a stream as new for its next call, which logs know as ``call``.

        Controls first: a reset stream has them without a ramp.
        """
        self._dry_for[stream] = self._faults[stream] = 0
        self._numberless[stream] = False
        self._phase[stream] = _HEARD
        self._calls[stream] = call
        self.turn(stream, controls)
        self._reset(stream)

    def resume(self, stream: int) -> None:
        """Go on after packets that went past: as new and unheard for the warm-up, which fades in as ever.

        One that was just being shed stays so, and one that failed begins its warm-up over.
        """
        if self._dry_for[stream]:
            self._dry_for[stream] = max(self._dry_for[stream], WARM_UP_PACKETS + 1)
        elif self._phase[stream] == _LEAVING:
            self._phase[stream] = _SHED
        elif self._phase[stream] != _SHED:
            self._phase[stream] = _SHED
            self.restore(stream)

    def turn(self, stream: int, changes: Changes) -> None:
        """Turn controls of a stream."""
        try:
            self._enhancer.set(stream, **changes)
        except Exception as error:
            self._fail(stream, error)

    def process(self, streams: Sequence[int], x: Float, dry: Float) -> Float:
        """Enhance ``x [streams, 960]``, a packet for each of the streams named; ``dry`` is what one gets that fails."""
        y = dry.copy()
        ill = [row for row, stream in enumerate(streams) if self._dry_for[stream]]
        fading = [row for row, stream in enumerate(streams) if self._phase[stream] != _HEARD]
        well = (self._dry_for[streams] == 0) & (self._phase[streams] != _SHED)
        self._enhance(streams, np.flatnonzero(well).tolist(), x, y)
        for row in fading:
            self._fade(streams[row], dry[row], y[row])
        for row in ill:
            self._retry(streams[row], x[row], y[row])
        return y

    def _fade(self, stream: int, dry: Float, y: Float) -> None:
        """What is heard, in place of ``y``, of a stream on its way to or from being shed."""
        phase = self._phase[stream]
        if phase == _LEAVING:
            y += (dry - y) * _RAMP
            self._phase[stream] = _SHED
        elif phase > _HEARD:
            y[:] = dry + (y - dry) * _RAMP if phase == _HEARD + 1 else dry
            self._phase[stream] -= 1

    def _enhance(self, streams: Sequence[int], rows: list[int], x: Float, y: Float) -> None:
        """Enhance some rows of ``x`` into ``y``; one that fails stays dry and leaves the others alone."""
        if not rows:
            return
        chosen = [streams[row] for row in rows]
        before = self._enhancer.faults[chosen]
        try:
            enhanced = self._enhancer.process(x[rows], streams=chosen)
        except Exception as error:
            if len(rows) == 1:
                self._fail(streams[rows[0]], error)
            else:
                for row in rows:
                    self._enhance(streams, [row], x, y)
            return
        numberless = self._enhancer.faults[chosen] > before
        for stream in np.array(chosen)[numberless & ~self._numberless[chosen]]:
            self._count(stream, FloatingPointError("the network gives no numbers"))
        self._numberless[chosen] = numberless
        places, finite = np.array(rows), np.isfinite(enhanced).all(axis=1)
        y[places[finite]] = enhanced[finite]
        for row in places[~finite]:
            self._fail(streams[row], FloatingPointError("the enhanced audio is not finite"))

    def _retry(self, stream: int, x: Float, y: Float) -> None:
        """Count a failed stream's packets; before it is back, try it alone, unheard, with a new state."""
        self._dry_for[stream] -= 1
        if self._dry_for[stream] > WARM_UP_PACKETS:
            return
        if self._dry_for[stream] == WARM_UP_PACKETS:
            self._reset(stream)
        wet = y[np.newaxis].copy()
        self._enhance([stream], [0], x[np.newaxis], wet)
        if not self._dry_for[stream]:
            y += (wet[0] - y) * _RAMP

    def _reset(self, stream: int) -> None:
        try:
            self._enhancer.reset(stream)
        except Exception as error:
            self._fail(stream, error)

    def _fail(self, stream: int, error: Exception) -> None:
        self._dry_for[stream] = RETRY_PACKETS
        self._phase[stream] = _HEARD
        self._count(stream, error)

    def _count(self, stream: int, error: Exception) -> None:
        self._faults[stream] += 1
        if self._faults[stream] == 1:
            logger.error(
                "a call gets dry audio: its enhancement failed",
                exc_info=error,
                extra={"call": self._calls[stream]},
            )
