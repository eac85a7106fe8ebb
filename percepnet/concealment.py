"""What a listener hears in place of audio that did not come.

The last pitch period goes on, as far as there is one, and noise with the spectrum of the last 10 ms where there
is none; from 20 ms on both fade, and at 80 ms only comfort noise is left, which has the spectrum and the level
of the quietest 10 ms of the last seconds. It needs nothing but the audio itself. A decoder of speech knows more
of it: what libopus guesses where it codes speech scores higher (``tests/score_concealment.py``).
"""

from typing import Final

import numpy as np

from .framing import Float

BLOCK: Final = 0.010  # s: what the pitch is looked for in, and what spectra of noise are taken from
SHORTEST_PERIOD: Final = 0.0025  # s, 400 Hz
LONGEST_PERIOD: Final = 0.018  # s, 56 Hz
SEAM: Final = 0.005  # s of cross-fade where concealed audio begins and ends
HOLD: Final = 0.020  # s of the level there was; vowels rarely last much longer unchanged
FADED: Final = 0.080  # s after which only comfort noise is left
FLOOR_MEMORY: Final = 2.0  # s that the quietest block is looked for in, and as many before them


class Concealer:
    """One mono stream at ``rate`` (Hz). Feed all audio through :meth:`heard`; :meth:`conceal` goes on from there.

    No latency: what was heard before is not changed, what comes after is cross-faded over ``SEAM``.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._block = 2 * round(BLOCK * rate / 2)
        self._seam = round(SEAM * rate)
        self._shortest, self._longest = round(SHORTEST_PERIOD * rate), round(LONGEST_PERIOD * rate)
        self._window = np.sqrt(np.hanning(self._block + 1)[:-1]).astype(np.float32)
        self._rise = np.linspace(0, 1, self._seam, endpoint=False, dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        needed = self._block + self._longest
        self._parts = [np.zeros(needed, np.float32)]  # of the past, the oldest first; joined only at a hole
        self._spare = 0  # samples in them beyond those needed
        silence = np.zeros(self._block, np.float32)
        self._quietest = [(np.inf, silence)] * 2  # power and block: of these 2 s, of those before
        self._noted = 0  # samples of these 2 s
        self._gone = 0  # samples concealed in a row
        self._hold, self._faded = HOLD, FADED
        self._cycle = silence  # period that is repeated
        self._difference = silence  # from the cycle to what was heard last, backwards
        self._voicing = 0.0
        self._like_speech = self._like_floor = _Noise(silence, self._window, np.random.default_rng(0))

    def heard(self, x: Float, settling: int = 0) -> Float:
        """Take audio that came, ``[samples]``; returns it, cross-faded at its begin after concealed audio.

        ``settling``: samples before that which are not to be heard after a hole: a filter on the way to here
        still rings with what was before it.
        """
        if self._gone and len(x):
            seam = min(self._seam + settling, len(x))
            settling = min(settling, seam - 1)
            rise = np.maximum(np.arange(-settling, seam - settling, dtype=np.float32) / (seam - settling), 0)
            x = x.copy()
            x[:seam] = x[:seam] * rise + self._extend(seam) * (1 - rise)
            self._gone = 0
        self._remember(x)
        self._note_floor(x)
        return x

    def conceal(self, samples: int, *, pause: bool = False) -> Float:
        """The next ``samples`` of a hole; of a ``pause`` only ``SEAM`` holds anything but comfort noise."""
        if not self._gone:
            self._begin()
        self._hold, self._faded = (0.0, SEAM) if pause else (HOLD, FADED)
        filled = self._extend(samples)
        self._remember(filled)
        return filled

    def _remember(self, x: Float) -> None:
        self._parts.append(x)
        self._spare += len(x)
        while self._spare >= len(self._parts[0]):
            self._spare -= len(self._parts.pop(0))

    def _past(self) -> Float:
        """The last samples, as many as are needed."""
        return np.concatenate(self._parts)[self._spare :]

    def _note_floor(self, x: Float) -> None:
        block = x[-self._block :] if len(x) >= self._block else self._past()[-self._block :]
        power = float(block @ block)
        if power < self._quietest[0][0]:
            self._quietest[0] = (power, block)
        self._noted += len(x)
        if self._noted > FLOOR_MEMORY * self._rate:
            self._quietest = [(power, block), self._quietest[0]]
            self._noted = 0

    def _begin(self) -> None:
        """Find the period that matches the last block best, and how well."""
        past = self._past()
        block = past[-self._block :]
        lags = np.arange(self._shortest, self._longest + 1)
        before = past[-self._block - self._longest : -self._shortest]  # ends one shortest period ago
        products = np.correlate(before, block)[::-1]  # [lags]
        powers = np.concatenate([[0.0], np.cumsum(np.square(before, dtype=np.float64))])
        energies = (powers[self._block :] - powers[: len(powers) - self._block])[::-1]
        likeness = products / np.sqrt(np.maximum(energies * float(block @ block), 1e-12))
        best = int(np.argmax(likeness))
        lag = int(lags[best])
        self._voicing = float(np.clip((likeness[best] - 0.1) / 0.3, 0, 1))
        cycle = past[-lag:].copy()
        seam = min(self._seam, lag // 4)
        fall = np.linspace(1, 0, seam, endpoint=False, dtype=np.float32)
        cycle[-seam:] = cycle[-seam:] * fall + past[-lag - seam : -lag] * (1 - fall)
        self._cycle = cycle
        quietest = min(self._quietest, key=lambda quiet: quiet[0])[1]
        self._like_speech = _Noise(block, self._window, np.random.default_rng(1))
        self._like_floor = _Noise(quietest, self._window, np.random.default_rng(2))
        self._difference = (past[-self._seam :] - past[-lag - self._seam : -lag])[::-1] * (1 - self._rise)

    def _extend(self, samples: int) -> Float:
        time = np.arange(self._gone, self._gone + samples)
        periodic = self._cycle[time % len(self._cycle)]
        if self._gone < self._seam:
            overlap = min(samples, self._seam - self._gone)
            periodic[:overlap] += self._difference[self._gone : self._gone + overlap]
        span = self._faded - self._hold
        gain = np.clip((self._faded - time / self._rate) / span, 0, 1).astype(np.float32)
        onset = np.minimum(time / self._seam, 1).astype(np.float32)  # noise begins only as fast as a seam
        voiced = 1 - onset * (1 - self._voicing)
        speech = periodic * voiced + self._like_speech.take(samples) * np.sqrt(1 - voiced**2)
        floor = self._like_floor.take(samples)
        self._gone += samples
        result: Float = speech * gain + floor * np.sqrt(1 - gain**2)
        return result


class _Noise:
    """Noise with the spectrum of ``block``: its parts with random phases, overlap-add."""

    def __init__(self, block: Float, window: Float, random: np.random.Generator) -> None:
        self._spectrum = np.abs(np.fft.rfft(block * window)) * np.sqrt(2)
        self._window = window
        self._random = random
        self._tail = np.zeros(len(block) // 2, np.float32)
        self._ready = np.zeros(0, np.float32)
        self.take(len(self._tail))  # only half of the first part

    def take(self, samples: int) -> Float:
        half = len(self._tail)
        while len(self._ready) < samples:
            turns = np.exp(2j * np.pi * self._random.random(len(self._spectrum)))
            part = np.fft.irfft(self._spectrum * turns, 2 * half).astype(np.float32) * self._window
            self._ready = np.concatenate([self._ready, self._tail + part[:half]])
            self._tail = part[half:]
        taken, self._ready = self._ready[:samples], self._ready[samples:]
        return taken
