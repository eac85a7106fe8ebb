"""What is heard of a call: how late its audio is, what is missing of it, and whether it is enhanced."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from percepnet.framing import SAMPLE_RATE, Pcm
from server.frames import PACKET
from server.media.opus import LOOKAHEAD, SPEECH_LOOKAHEAD

from .wire import Log

# What audio may be late by inside its packets, in samples: the algorithm, and what both encoders look ahead.
WAYS: Final = (
    (0, 2 * SPEECH_LOOKAHEAD),  # of an echo
    (1440, SPEECH_LOOKAHEAD + LOOKAHEAD),  # of ours, at its default rate
    (1440, 2 * SPEECH_LOOKAHEAD),  # of ours, at rates where libopus codes speech
)
SETTLING: Final = 1.0  # s after the first packet came that are not counted: both ends still connect
UNDER_WAY: Final = 1.0  # s before the last packet left that are not counted: their answers may be on the way
LEAST_LIKENESS: Final = 0.1  # correlation below which two signals are not the same speech; noise has 0.02
PAUSES_DB: Final = -6.0  # enhanced: the pauses between words have become quieter by this
SPEECH_DB: Final = 6.0  # and the loud parts have kept their level within this
WINDOW: Final = 2 * SAMPLE_RATE  # samples that are looked for at a time
REACH: Final = 2 * SAMPLE_RATE  # and how far before and behind
CLEAN_DB: Final = 40.0  # pauses that are quieter than speech by this have nothing that could be taken away
LOUD, QUIET = 80, 20  # percentiles of a recording's levels that are speech for sure, and pauses

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Delays:
    """The packets of a call that count: those between settling and the end."""

    at: Times  # s of time.monotonic(), when each packet that was answered had left
    ms: Times  # from its leaving to the coming of the same audio, less what both encoders look ahead
    missing_at: Times  # s, when those had left, or got lost on purpose, whose audio time did not come back
    asked: int  # answered, missing, and lost on purpose but filled by the server

    @property
    def missing_percent(self) -> float:
        return 100 * len(self.missing_at) / self.asked if self.asked else 0.0

    @property
    def drift_ms(self) -> float:
        """How much the last sixth of the call is later than the first; medians."""
        sixth = max(1, len(self.ms) // 6)
        return float(np.median(self.ms[-sixth:]) - np.median(self.ms[:sixth])) if len(self.ms) else 0.0


def lag(sent: Pcm, heard: Pcm) -> int | None:
    """Samples by which ``heard`` is behind ``sent``; None where they have nothing in common."""
    size = 1 << (2 * max(len(sent), len(heard)) - 1).bit_length()  # else some take ten times as long
    product = np.fft.rfft(heard, size) * np.fft.rfft(sent, size).conj()
    correlation = np.fft.irfft(product, size)
    peak = int(np.argmax(correlation))
    energy = _energy(sent) * _energy(heard)
    if not energy or correlation[peak] < LEAST_LIKENESS * np.sqrt(energy):
        return None
    return peak if peak < size // 2 else peak - size


def delays(sent: Log, lost: set[int], came: Log, late: int | None) -> Delays:
    """Match what left with what came, where the audio that came is ``late`` samples behind.

    Both logs count samples from their own first packet, so ``late`` also holds whole packets that one end
    sent before the other listened. The delay of a packet is the time from its leaving to the coming of the
    packet that answers it, and what the audio inside is late by besides; in sum that is how late the audio
    is, whichever packet is taken for the answer. With ``late`` None, where the audio could not be recognised,
    what is missing is told by the times alone, and there are no delays.
    """
    left, left_at = np.array(sent.times), np.array(sent.at)
    order = np.argsort(np.array(came.times), kind="stable")
    back, back_at = np.array(came.times)[order], np.array(came.at)[order]
    if not len(left) or not len(back):
        return Delays(np.zeros(0), np.zeros(0), np.zeros(0), 0)
    counted = (left_at >= back_at.min() + SETTLING) & (left_at <= left_at[-1] - UNDER_WAY)
    left, left_at = left[counted], left_at[counted]
    packets, looked_ahead = (0, 0) if late is None else _way(late)
    wanted = left + packets * PACKET
    place = np.searchsorted(back, wanted, "right") - 1
    found = (place >= 0) & (wanted - back[place] < PACKET)
    if late is None:
        return Delays(np.zeros(0), np.zeros(0), left_at[~found], len(left))
    real = found & ~np.isin(left, list(lost))
    answer = place[real]
    between = back_at[answer] - left_at[real]
    inside = (late - (back[answer] - left[real]) - looked_ahead) / SAMPLE_RATE
    return Delays(left_at[real], (between + inside) * 1e3, left_at[~found], len(left))


def course(
    sent: Log, came: Log, said: Callable[[int, int], Pcm], heard: Pcm, looked_ahead: int
) -> list[tuple[float, float | None]]:
    """How late the audio is in the course of a call: s of what was heard, ms; None where it is not recognised
    or most of it did not come.

    For windows of 2 s, each looked for anew: a server that makes the time between words shorter or longer, to
    follow a network, is late by another amount each time. ``said(start, samples)`` gives the speech on the
    timeline of ``sent``; ``heard`` is on that of ``came``. A window is as late as its packets were in the median,
    and as the audio is inside them, less what the encoders ``looked_ahead`` (samples).
    """
    left = float(np.median(np.array(sent.at) - np.array(sent.times) / SAMPLE_RATE))
    times, at = np.array(came.times), np.array(came.at)
    found: list[tuple[float, float | None]] = []
    for start in range(0, len(heard) - WINDOW + 1, WINDOW // 4):
        inside = (times >= start) & (times < start + WINDOW)
        late = lag(said(start - REACH, WINDOW + 2 * REACH), heard[start : start + WINDOW])
        middle = (start + WINDOW / 2) / SAMPLE_RATE
        if late is None or inside.sum() < WINDOW / PACKET / 2:
            found.append((middle, None))
            continue
        came_late = float(np.median(at[inside] - times[inside] / SAMPLE_RATE)) - left
        found.append((middle, (came_late + (late + REACH - looked_ahead) / SAMPLE_RATE) * 1e3))
    return found


def tardiness(sent: Log) -> float:
    """p99 of the ms that packets left after they were due, as far as the earliest of them was in time."""
    if not sent.times:
        return 0.0
    late = np.array(sent.at) - np.array(sent.times) / SAMPLE_RATE
    return float(np.percentile(late - late.min(), 99)) * 1e3


def _way(late: int) -> tuple[int, int]:
    """By how many packets the answer to a packet is behind it, as the two ends have counted them; and what the
    encoders look ahead. The way that leaves the least besides whole packets is the one that the audio took.
    """
    behind = [(late - sum(way)) / PACKET for way in WAYS]
    best = int(np.argmin([abs(packets - round(packets)) for packets in behind]))
    return round(behind[best]), WAYS[best][1]


def enhancement(sent: Pcm, heard: Pcm, known: NDArray[np.bool_]) -> tuple[float, float] | None:
    """By how many dB the pauses and the speech of ``heard`` are louder than those of ``sent``; both aligned.

    Medians over frames of 20 ms that are wholly ``known``. None where these are less than a second, have no
    pauses (the level of ``sent`` is the same throughout), or none with noise.
    """
    whole = _frames(known).all(1)
    if whole.sum() * PACKET < SAMPLE_RATE:
        return None
    before, after = _levels_db(sent)[whole], _levels_db(heard)[whole]
    loud, quiet = np.percentile(before, [LOUD, QUIET])
    if not SPEECH_DB <= loud - quiet <= CLEAN_DB:
        return None
    change = after - before
    return float(np.median(change[before <= quiet])), float(np.median(change[before >= loud]))


def is_enhanced(pauses_db: float, speech_db: float) -> bool:
    """Whether changes of level are those that an enhancer makes."""
    return pauses_db <= PAUSES_DB and abs(speech_db) <= SPEECH_DB


def percentiles(values: NDArray[Any]) -> dict[str, float] | None:
    """p50, p95, p99 and the longest, rounded to 0.01; None of nothing."""
    if not len(values):
        return None
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    named = {"p50": p50, "p95": p95, "p99": p99, "longest": np.max(values)}
    return {name: round(float(value), 2) for name, value in named.items()}


def _energy(pcm: Pcm) -> float:
    return float(np.square(pcm, dtype=np.float64).sum())


def _frames(samples: NDArray[Any]) -> NDArray[Any]:
    return samples[: len(samples) // PACKET * PACKET].reshape(-1, PACKET)


def _levels_db(pcm: Pcm) -> NDArray[np.float64]:
    levels: NDArray[np.float64] = 10 * np.log10(np.square(_frames(pcm), dtype=np.float64).mean(1) + 0.1)
    return levels
