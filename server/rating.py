"""How many calls one core carries within the bound, from what a step of the enhancer costs here."""

import logging
import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from percepnet import Enhancer

from .frames import PACKET
from .overload import BOUND

PACKET_TIME: Final = 0.02  # s
# s of the core for a packet's way in and out: ICE, SRTP, jitter buffer, Opus both ways. Measured on a slow core
# (percepnet load, 7 calls, less the enhancer's share); a faster one carries more than this rates, see --rated-calls.
MEDIA_TIME: Final = 0.0014
MARGIN: Final = 0.8  # of the core: the rest is for set-ups, figures and the noise of the measurement
REPEATS: Final = 7  # of each step, at most
LONGEST: Final = 0.8  # s for all of it

logger = logging.getLogger(__name__)


def rated_calls(per_batch: float, per_call: float) -> int:
    """Calls that a core carries if a batch of n costs ``per_batch + n · per_call`` seconds; at least 1.

    What waits while one batch is computed is the next, so a packet waits for one batch at most and is
    computed in another: both must be over within ``BOUND``. Batches may then take ``BOUND / 2`` each, that is
    ``PACKET_TIME / (BOUND / 2)`` = 4 of them in the time of a packet, and the core has to bear
    4 · per_batch + calls · (per_call + media) ≤ margin · PACKET_TIME.
    """
    batches = PACKET_TIME / (BOUND / 2)
    room = MARGIN * PACKET_TIME - batches * per_batch
    return max(1, int(room / (per_call + MEDIA_TIME)))


def measured(enhancer: Enhancer, clock: Callable[[], float] = time.thread_time) -> int:
    """Rate the enhancer with steps of noise, in less than a second; all its streams are as new after it.

    Processor time of the thread, so that waiting for the core does not count; and the shortest of several
    steps spread over the time, as a neighbour on the core and cold caches only ever make them longer.
    """
    sizes = sorted({1, max(1, min(8, enhancer.streams // 2)), min(16, enhancer.streams)})
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (sizes[-1], PACKET)).astype(np.float32)
    end = time.monotonic() + LONGEST
    costs = [math.inf] * len(sizes)
    for _ in range(REPEATS):
        for n, size in enumerate(sizes):
            began = clock()
            enhancer.process(noise[:size], streams=range(size))
            costs[n] = min(costs[n], clock() - began)
        if time.monotonic() > end:
            break
    enhancer.reset()
    per_batch, per_call = _line(sizes, costs)
    calls = rated_calls(per_batch, per_call)
    logger.info(
        "rated at %d calls: a batch costs %.2f ms and %.2f ms per call",
        calls,
        per_batch * 1e3,
        per_call * 1e3,
    )
    return calls


def _line(sizes: list[int], costs: list[float]) -> tuple[float, float]:
    """Costs (s) as a part per batch and one per call, neither negative."""
    if len(sizes) == 1:
        return 0.0, costs[0]
    slope, offset = np.polyfit(sizes, costs, 1)
    per_call = max(0.0, float(slope))
    return max(0.0, float(offset)), per_call
