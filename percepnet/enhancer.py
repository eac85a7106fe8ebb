"""The hop loop: noisy samples of many calls in, enhanced samples out, 30 ms later.

Source: P20. The order of the signal: history → analysis (spectrum, pitch, comb filter, coherence, features) → network →
post-filter → resynthesis → overlap-add. All streams and all hops of a block go through each stage at once.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import EllipsisType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from percepnet import bands, framing
from percepnet.analysis import HISTORY, Analysis, AnalysisState, analyse
from percepnet.framing import ANALYSIS, HOP, LATENCY, LOOKAHEAD, WINDOW, Float
from percepnet.network import Network
from percepnet.resynthesis import enhance_spectra

MAX_ATTENUATION_LIMIT_DB: Final = 100.0

_BLOCK: Final = 50  # hops that go through at once; bounds the memory of a long recording
# per hop: a control is where it was set after 40 ms; exact in binary, or a fade in pieces would last longer
_RAMP: Final = np.float32(0.25)
LOUDEST: Final = np.float32(4)  # 12 dB above full scale: bounds what a broken packet does to the levels
_SILENT: Final = np.float32(2**-15)  # peak, −90 dBFS: one step of 16 bits, Opus's muted microphone
# hops of silence on end, 10 s, in which the states settle; a stream sleeps through the rest
_SLEEPY: Final = 1000
_DRY: Final[Float] = np.square(ANALYSIS)  # what analysis and synthesis windows make of an unchanged frame

Rows = NDArray[np.int64]


class Enhancer:
    """Noise suppression of ``streams`` independent mono calls at 48 kHz with one shared network.

    Each stream's output is its input ``latency_samples`` later, enhanced. Not thread-safe.

    A stream that has been silent for ten seconds (peaks of −90 dBFS at most) sleeps until it is not: it costs no
    network, and goes on as if the rest of the silence had not been. Sooner, words that follow would begin too low.

    Args:
        streams: number of calls, at least 1.
        model: path of an exported ``.onnx``, or the name of a shipped one, ``subband`` or ``lite``; None: ``subband``.
        postfilter: deepen the valleys between bands (P20's envelope post-filter).
        attenuation_limit_db: the most that is taken away, 0…100 dB, by mixing the dry signal back in; None: no limit.
            Single bins may fall below it, where what the comb filter makes and the dry signal cancel.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, named with what is allowed.
        FileNotFoundError: no model there.

    >>> import numpy as np
    >>> e = Enhancer(streams=4)
    >>> y = e.process(np.zeros((4, 960), np.float32))
    >>> y.shape, e.latency_samples
    ((4, 960), 1440)
    """

    latency_samples: Final = LATENCY

    def __init__(
        self,
        *,
        streams: int = 1,
        model: str | Path | None = None,
        postfilter: bool = True,
        attenuation_limit_db: float | None = None,
    ) -> None:
        if isinstance(streams, bool) or not isinstance(streams, (int, np.integer)) or streams < 1:
            raise ValueError(f"streams is {streams!r}; allowed: 1 and more")
        check_controls(postfilter=postfilter, attenuation_limit_db=attenuation_limit_db)
        self.streams = int(streams)
        self.network = Network(model)
        self._history = np.zeros((self.streams, HISTORY), np.float32)
        self._tail = np.zeros((self.streams, HOP), np.float32)
        self._analysis = AnalysisState.new(self.streams)
        self._state = self.network.new_state(self.streams)
        wet = _wet(attenuation_limit_db)
        self._enabled = np.ones(self.streams, bool)
        self._limit = np.full(self.streams, wet, np.float32)
        self._postfilter = np.full(self.streams, postfilter, np.float32)
        # The shares of the enhanced signal and of the post-filter now, on their way to where the controls were set.
        self._wet = np.full(self.streams, wet, np.float32)
        self._post = self._postfilter.copy()
        # Was dry, at no cost: what the analysis and the network remember of it is stale.
        self._idle = np.zeros(self.streams, bool)
        self._quiet = np.zeros(self.streams, np.int64)  # hops of silence on end, until now
        # blocks that are dry because the network gave no number
        self.faults = np.zeros(self.streams, np.int64)

    def set(
        self,
        stream: int,
        *,
        enabled: bool | None = None,
        attenuation_limit_db: float | EllipsisType | None = ...,
        postfilter: bool | None = None,
    ) -> None:
        """Change controls of one stream; they move within 50 ms, without a click. What is not named stays.

        A disabled stream returns its input at the same delay and costs no network.
        """
        row = self._rows([stream])[0]
        chosen: dict[str, Any] = {"enabled": enabled, "postfilter": postfilter}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        check_controls(**chosen, attenuation_limit_db=attenuation_limit_db)
        if not isinstance(attenuation_limit_db, EllipsisType):
            self._limit[row] = _wet(attenuation_limit_db)
        if enabled is not None:
            self._enabled[row] = enabled
        if postfilter is not None:
            self._postfilter[row] = postfilter

    @property
    def asleep(self) -> NDArray[np.bool]:
        """``[streams]``: which of them sleep."""
        return self._quiet > _SLEEPY

    def reset(self, stream: int | None = None) -> None:
        """Forget all that was heard of a stream, or of every stream; the controls stay and take effect at once."""
        rows = self._rows(None if stream is None else [stream])
        self._history[rows] = 0
        self._tail[rows] = 0
        self._analysis.put(rows, AnalysisState.new(len(rows)))
        self._state[rows] = 0
        self._idle[rows] = False
        self._quiet[rows] = self.faults[rows] = 0
        self._wet[rows] = self._wanted(rows)
        self._post[rows] = self._postfilter[rows]

    def process(self, x: Float, streams: Sequence[int] | Rows | None = None) -> Float:
        """Enhance the next samples of all streams, or of those in ``streams``.

        x: float32 ``[streams, n · 480]``, full scale ±1, row i for ``streams[i]``; NaN and infinities count as 0,
        beyond ±4 is clipped. Returns the same shape: the enhanced input of ``latency_samples`` before.
        Raises TypeError for another dtype, ValueError for another shape or for streams that do not exist.
        """
        rows = self._rows(streams)
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            kind = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise TypeError(f"x is {kind}; allowed: numpy float32 with full scale ±1")
        if x.ndim != 2 or len(x) != len(rows) or x.shape[1] % HOP:
            raise ValueError(f"x has shape {x.shape}; allowed: [{len(rows)}, a multiple of {HOP}]")
        peaks = _peaks(x)
        if not peaks.max(initial=0) <= LOUDEST:
            x = bounded(x)
            peaks = _peaks(x)
        quiet = _run_lengths(peaks <= _SILENT, self._quiet[rows])
        asleep = quiet > _SLEEPY
        out = np.empty_like(x)
        edges = _edges(asleep, self._fades(rows))
        before = [state[rows] for state in self._states()] if len(edges) > 2 else []
        try:
            for start, stop in pairwise(edges):
                block = slice(start * HOP, stop * HOP)
                out[:, block] = self._block(x[:, block], rows, asleep[:, start])
                self._quiet[rows] = quiet[:, stop - 1]
        except BaseException:  # of several blocks, none was heard
            for state, kept in zip(self._states(), before, strict=False):
                state[rows] = kept
            raise
        return out

    def _states(self) -> tuple[NDArray[Any], ...]:
        """All that is kept of the streams, but for what was set and counted."""
        heard = (self._history, self._tail, self._analysis.whole, self._state, self._idle, self._quiet)
        return *heard, self._wet, self._post

    def _block(self, x: Float, rows: Rows, asleep: NDArray[np.bool]) -> Float:
        hops = x.shape[1] // HOP
        samples = np.concatenate([self._history[rows], x], axis=1)
        wet = self._ramp(self._wet, self._wanted(rows), rows, hops)
        enabled = wet.max(axis=1) > 0
        active = enabled & ~asleep
        woken = active & self._idle[rows]
        if woken.any():
            self._wake(rows[woken], framing.frames(samples[woken], LOOKAHEAD, delay=hops))
        if active.all():
            frame = self._enhance(samples, rows, wet, hops)
        else:
            frame = np.empty((len(rows), hops, WINDOW), np.float32)
            frame[~active] = framing.frames(samples, hops, delay=LOOKAHEAD)[~active] * _DRY
            if active.any():
                frame[active] = self._enhance(samples[active], rows[active], wet[active], hops)
        self._idle[rows] = np.where(asleep, self._idle[rows], ~enabled)  # who slept has missed nothing
        tail = self._tail[rows]
        out = framing.overlap_add(frame, tail)
        self._tail[rows] = tail
        self._history[rows] = samples[:, hops * HOP :]  # last: a step that raises has not heard its input
        return out

    def _enhance(self, samples: Float, rows: Rows, wet: Float, hops: int) -> Float:
        """Windowed output frames ``[rows, hops, WINDOW]`` of the streams that are enhanced now."""
        frames, gain, strength = self._decide(samples, rows)
        ill = ~np.isfinite(gain + strength).min(axis=(1, 2))
        if ill.any():  # a fault of the network: dry, and the stream starts anew
            gain[ill], strength[ill], wet = 1, 0, np.where(ill[:, None], 0, wet)
            self._wake(rows[ill], framing.frames(samples[ill], LOOKAHEAD))
            self._wet[rows[ill]] = 0
            self.faults[rows[ill]] += 1
        post = self._ramp(self._post, self._postfilter[rows], rows, hops)
        enhanced = enhance_spectra(frames, gain, strength, post)
        partly = wet.min(axis=1) < 1
        if partly.any():
            dry = frames.spectra[partly]
            enhanced[partly] = dry + wet[partly][..., None] * (enhanced[partly] - dry)
        return framing.synthesis(enhanced)

    def _wake(self, rows: Rows, undecided: Float) -> None:
        """Fresh states for streams that were dry; the undecided frames ``[rows, LOOKAHEAD, WINDOW]`` are theirs."""
        analysis = AnalysisState.new(len(rows))
        analysis.spectra[:] = framing.spectrum(undecided)
        analysis.energy[:] = bands.energy(analysis.spectra)
        self._analysis.put(rows, analysis)
        self._state[rows] = 0
        self._post[rows] = self._postfilter[rows]

    def _decide(self, samples: Float, rows: Rows) -> tuple[Analysis, Float, Float]:
        """Analyse the newest hops and ask the network."""
        if len(rows) == self.streams and (rows[:-1] < rows[1:]).all():
            # all, in order: the states are used in place, not copied
            try:
                frames = analyse(samples, self._analysis)
                gain, strength, self._state = self.network(frames.features, self._state)
            except BaseException:
                # The analysis may have heard what the network has not: both start anew.
                self._idle[rows] = True
                raise
            return frames, gain, strength
        analysis, state = self._analysis.rows(rows), self._state[rows]
        frames = analyse(samples, analysis)
        gain, strength, state = self.network(frames.features, state)
        self._analysis.put(rows, analysis)
        self._state[rows] = state
        return frames, gain, strength

    def _wanted(self, rows: Rows) -> Float:
        return np.where(self._enabled[rows], self._limit[rows], np.float32(0))

    def _ramp(self, current: Float, wanted: Float, rows: Rows, hops: int) -> Float:
        """Values ``[rows, hops]`` of a control on its way from ``current[rows]`` to ``wanted [rows]``; moves it."""
        now = current[rows]
        if (now == wanted).all():
            return np.repeat(now[:, None], hops, axis=1)
        steps = _RAMP * np.arange(1, hops + 1, dtype=np.float32)
        distance = (wanted - now)[:, None]
        path = now[:, None] + np.clip(distance, -steps, steps)
        current[rows] = path[:, -1]
        return path

    def _fades(self, rows: Rows) -> list[int]:
        """Hops after which streams that become dry are heard no more of; from then on they are idle."""
        wanted = self._wanted(rows)
        if wanted.all():  # as nearly always
            return []
        left = self._wet[rows][wanted == 0]
        left = left[left > 0]
        steps = _RAMP * np.arange(1, 1 + round(1 / _RAMP), dtype=np.float32)
        return (steps < left[:, None]).sum(1).tolist()

    def _rows(self, streams: Sequence[int] | Rows | None) -> Rows:
        if streams is None:
            return np.arange(self.streams)
        rows = np.asarray(streams)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise TypeError(f"streams are {streams!r}; allowed: whole numbers, one for each row")
        rows = rows.astype(np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.streams):
            raise ValueError(f"streams are {rows.tolist()}; allowed: 0 to {self.streams - 1}")
        if len(set(rows.tolist())) != len(rows):
            raise ValueError(f"streams are {rows.tolist()}; allowed: each once")
        return rows


def check_controls(
    *,
    enabled: bool = True,
    attenuation_limit_db: float | EllipsisType | None = ...,
    postfilter: bool = True,
) -> None:
    """Raise TypeError or ValueError, with what is allowed, if ``Enhancer.set`` would not take these."""
    for name, value in (("enabled", enabled), ("postfilter", postfilter)):
        if not isinstance(value, (bool, np.bool)):
            raise TypeError(f"{name} is {value!r}; allowed: True and False")
    limit, allowed = attenuation_limit_db, f"0 to {MAX_ATTENUATION_LIMIT_DB:g}, or None"
    if limit is None or isinstance(limit, EllipsisType):
        return
    if isinstance(limit, bool) or not isinstance(limit, (int, float, np.integer, np.floating)):
        raise TypeError(f"attenuation_limit_db is {limit!r}; allowed: {allowed}")
    if not 0 <= limit <= MAX_ATTENUATION_LIMIT_DB:
        raise ValueError(f"attenuation_limit_db is {limit}; allowed: {allowed}")


def bounded(x: Float) -> Float:
    """``x`` with 0 for NaN and infinities, within ±``LOUDEST``."""
    return np.clip(np.where(np.isfinite(x), x, np.float32(0)), -LOUDEST, LOUDEST)


def _peaks(x: Float) -> Float:
    """Peaks ``[streams, hops]``; NaN where there is one."""
    hops = x.reshape(len(x), x.shape[1] // HOP, HOP)
    return np.maximum(hops.max(-1), -hops.min(-1))


def _run_lengths(holds: NDArray[np.bool], before: Rows) -> Rows:
    """For each ``[streams, hops]``: how many hops on end it holds, with ``before [streams]`` ones just before."""
    if not holds.any():  # as nearly always; the rest costs 15 µs
        return np.zeros(holds.shape, np.int64)
    hop = np.arange(holds.shape[1])
    last = np.maximum.accumulate(np.where(holds, -1, hop), axis=1)
    return hop - last + np.where(last < 0, before[:, None], 0)


def _edges(asleep: NDArray[np.bool], fades: list[int]) -> list[int]:
    """The hops at which blocks meet, the first and the end included: who sleeps is the same all through a block, and
    streams become idle, after ``fades`` hops, where one begins."""
    hops = asleep.shape[1]
    edges = {*range(0, hops, _BLOCK), hops, *(hop for hop in fades if hop < hops)}
    if asleep.any():
        edges.update((np.flatnonzero((asleep[:, 1:] != asleep[:, :-1]).any(0)) + 1).tolist())
    return sorted(edges)


def _wet(attenuation_limit_db: float | None) -> float:
    """Share of the enhanced signal that keeps the attenuation within the limit."""
    return 1.0 if attenuation_limit_db is None else 1.0 - 10 ** (-attenuation_limit_db / 20)
