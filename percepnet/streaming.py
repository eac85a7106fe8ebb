"""One voice as it comes, at any sample rate and in chunks of any size: what plug-ins for other frameworks need."""

import logging
import math
from fractions import Fraction
from pathlib import Path
from types import EllipsisType
from typing import Final

import numpy as np

from percepnet.enhancer import LOUDEST, Enhancer, bounded
from percepnet.framing import HOP, LATENCY, SAMPLE_RATE, Float, Pcm, continued, from_pcm, to_pcm
from percepnet.resampling import StreamingResampler, checked_rate

RETRY_HOPS: Final = 500  # 5 s of dry audio after a fault, then enhancement is tried again
WARM_UP_HOPS: Final = 5  # the last of these: computed, but not heard before the very last, which fades in
_RAMP: Final = np.linspace(0, 1, HOP, dtype=np.float32)

logger = logging.getLogger(__name__)


class StreamingEnhancer:
    """Noise suppression of one mono voice: for each chunk in, a chunk of the same length out, ``latency`` later.

    The delay is constant, from the first sample on: 30 ms of the algorithm, 10 ms because it works in steps of
    10 ms and chunks may have any size, and what the conversion to 48 kHz and back takes: none at 48 kHz, 3 ms at
    44.1 kHz, 8 ms at 16 kHz, 16 ms at 8 kHz. How the samples are cut into chunks changes nothing of the result, but
    chunks of less than 20 ms cost up to twice the processor time, as the network takes 20 ms at a time.

    What fails inside does not fail for the listener: they get the dry audio, as late, and after some seconds
    enhancement is tried again. Not thread-safe.

    Args:
        sample_rate: 8 000 to 192 000 Hz. Rates below 48 000 Hz keep their own band; of others, what is below 24 kHz.
        model, postfilter, attenuation_limit_db: as for :class:`percepnet.Enhancer`.

    >>> import numpy as np
    >>> from percepnet import StreamingEnhancer
    >>> voice = StreamingEnhancer(16_000)
    >>> voice.process(np.zeros(100, np.float32)).shape, round(1000 * float(voice.latency))
    ((100,), 48)
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        model: str | Path | None = None,
        postfilter: bool = True,
        attenuation_limit_db: float | None = None,
    ) -> None:
        self.sample_rate = checked_rate(sample_rate)
        self._enhancer = Enhancer(
            model=model, postfilter=postfilter, attenuation_limit_db=attenuation_limit_db
        )
        self._begin()

    def _begin(self) -> None:
        rate = self.sample_rate
        native = rate == SAMPLE_RATE
        self._up = None if native else StreamingResampler(rate, SAMPLE_RATE)
        self._down = None if native else StreamingResampler(SAMPLE_RATE, rate)
        # What the rest of a hop holds back, with what rounding to whole samples at both rates may.
        ahead = HOP - 1 if native else math.ceil(HOP * Fraction(rate, SAMPLE_RATE)) + 1
        converting = self._up.delay + self._down.delay if self._up and self._down else Fraction(0)
        self.latency = Fraction(LATENCY, SAMPLE_RATE) + Fraction(ahead, rate) + converting  # s
        self._waiting = np.zeros(0, np.float32)  # at 48 kHz, for the rest of its hop
        self._ready = np.zeros(ahead, np.float32)
        self._delayed = np.zeros(LATENCY, np.float32)  # the dry signal
        self._last = 0.0  # sample that was made of it
        self._dry_last = 0.0  # sample of dry audio at that time
        self._dry_hops = 0  # until enhancement is back after a fault

    @property
    def latency_samples(self) -> int:
        """``latency`` in samples of ``sample_rate``, to the nearest."""
        return round(self.latency * self.sample_rate)

    def set(
        self,
        *,
        enabled: bool | None = None,
        attenuation_limit_db: float | EllipsisType | None = ...,
        postfilter: bool | None = None,
    ) -> None:
        """Change controls; they move within 50 ms, without a click and at the same delay. What is not named stays."""
        self._enhancer.set(
            0, enabled=enabled, attenuation_limit_db=attenuation_limit_db, postfilter=postfilter
        )

    def reset(self) -> None:
        """Forget all that was heard, as if new; the controls stay."""
        self._enhancer.reset()
        self._begin()

    def process(self, x: Float) -> Float:
        """The next samples, float32 ``[n]`` with full scale ±1; NaN and infinities count as 0,
        beyond ±4 is clipped.

        Returns as many: the enhanced input of ``latency`` before, silence before the first. Raises TypeError for
        another dtype, ValueError for anything but one channel.
        """
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"x is {kind}; allowed: numpy float32 with full scale ±1")
        if x.ndim != 1:
            raise ValueError(
                f"x has shape {x.shape}; allowed: [samples] of one channel, each in a stream of its own"
            )
        if not np.abs(x).max(initial=0) <= LOUDEST:
            x = bounded(x)  # or it would spread over the length of the resampler's filter
        wide = x if self._up is None else self._up.push(x)
        self._waiting = np.concatenate([self._waiting, wide])
        whole = len(self._waiting) // HOP * HOP
        if whole:
            y = self._enhance(self._waiting[:whole])
            self._waiting = self._waiting[whole:]
            self._ready = np.concatenate([self._ready, y if self._down is None else self._down.push(y)])
        out, self._ready = self._ready[: len(x)], self._ready[len(x) :]
        return out

    def process_pcm(self, pcm: Pcm) -> Pcm:
        """The same for signed 16-bit samples."""
        if not isinstance(pcm, np.ndarray) or pcm.dtype != np.int16:
            kind = pcm.dtype if isinstance(pcm, np.ndarray) else type(pcm).__name__
            raise TypeError(f"pcm is {kind}; allowed: numpy int16")
        return to_pcm(self.process(from_pcm(pcm)))

    def _enhance(self, x: Float) -> Float:
        """Enhanced ``x``, whole hops at 48 kHz; dry where that fails."""
        joined = np.concatenate([self._delayed, x])
        dry, self._delayed = joined[: len(x)], joined[len(x) :]
        y = self._enhanced_or_dry(x, dry)
        self._last, self._dry_last = float(y[-1]), float(dry[-1])
        return y

    def _enhanced_or_dry(self, x: Float, dry: Float) -> Float:
        if not self._dry_hops:
            try:
                return self._enhancer.process(x[np.newaxis])[0]
            except Exception:
                logger.exception("a voice gets dry audio: its enhancement failed")
                self._dry_hops = RETRY_HOPS
                return continued(dry, self._dry_last, self._last)
        parts = []
        for hop, dry_hop in zip(_hops(x), _hops(dry), strict=True):
            parts.append(self._recover(hop, dry_hop))
            self._last, self._dry_last = float(parts[-1][-1]), float(dry_hop[-1])
        return np.concatenate(parts)

    def _recover(self, x: Float, dry: Float) -> Float:
        """One hop of a voice that failed: dry; at the end enhanced again, unheard at first, then fading in."""
        left = self._dry_hops
        if left > WARM_UP_HOPS:
            self._dry_hops -= 1
            return dry
        try:
            if left == WARM_UP_HOPS:
                self._enhancer.reset()
            wet = self._enhancer.process(x[np.newaxis])[0]
        except Exception:
            self._dry_hops = RETRY_HOPS
            return dry if left else continued(dry, self._dry_last, self._last)
        if not left:
            return wet
        self._dry_hops -= 1
        return dry if self._dry_hops else dry + (wet - dry) * _RAMP


def _hops(x: Float) -> Float:
    return x.reshape(-1, HOP)
