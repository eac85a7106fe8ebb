"""Training mixtures: speech and noise with everything that happens to them before they reach a server.

Source: the augmentations of P20 section 4 and its successors. All of it runs at 48 kHz on float32 ``[samples]``.
"""

from typing import Final, NamedTuple

import numpy as np
from scipy.fft import irfft, rfft
from scipy.signal import fftconvolve, lfilter, resample_poly

from percepnet.framing import SAMPLE_RATE, Float
from percepnet.mixture import active_level
from percepnet.training.codec import RATES, through_opus
from percepnet.training.corpus import Corpus
from percepnet.training.rooms import EARLY, room_response

_SPEEDS: Final = ((1, 1), (1, 1), (9, 10), (10, 9), (7, 8), (8, 7), (19, 20), (20, 19))
_VOICE_SPEEDS: Final = (*_SPEEDS, (4, 5), (3, 4), (2, 3))  # the last make children's voices of others
_NOISE_SPEEDS: Final = (*_SPEEDS, (1, 2), (2, 3), (3, 4), (4, 3), (3, 2), (2, 1))
_NYQUIST: Final = SAMPLE_RATE / 2


class Mixture(NamedTuple):
    noisy: Float  # [samples]
    uncoded: Float  # [samples]; the same before a codec, which some go through
    clean: Float  # [samples]; the wanted part of it: speech with early reflections
    bandwidth: float  # Hz, up to which clean is evidence


class Mixer:
    """Endless mixtures of ``length`` samples from a corpus; the same seed gives the same ones."""

    def __init__(self, corpus: Corpus, length: int, seed: int) -> None:
        self.corpus, self.length = corpus, length
        self.rng = np.random.default_rng(seed)
        # of what is added to mixtures: more of it leaves the rest as it is
        (self._place,) = self.rng.spawn(1)
        self._weights = {
            kind: np.array([min(r.length, 60 * SAMPLE_RATE) for r in getattr(corpus, kind)], float)
            for kind in ("speech", "noise")
        }
        for weights in self._weights.values():
            weights /= weights.sum()

    def draw(self) -> Mixture:
        """One mixture."""
        rng = self.rng
        speech, bandwidth = self._speech()
        wanted = speech
        if rng.random() < 0.3:
            response = room_response(rng)
            wanted = fftconvolve(speech, response[:EARLY])[: self.length]
            speech = fftconvolve(speech, response)[: self.length]
        noise = self._noise()

        kind = rng.random()
        level = 10 ** (rng.uniform(-45, -10) / 20)
        scale = level / (active_level(wanted) or 1.0)
        ratio = rng.uniform(-5, 35) if rng.random() < 0.25 else np.clip(rng.normal(7, 7), -5, 35)
        noise *= level / max(np.sqrt(np.mean(np.square(noise))), 1e-5) * 10 ** (-ratio / 20)
        if self._place.random() < 0.3:
            noise = _changed(noise, self._place)
        if kind < 0.05:  # noise only
            scale, bandwidth = 0.0, _NYQUIST
        elif kind < 0.15:  # noise-free
            noise *= 0
        if rng.random() < 0.08:
            self._blast(noise, level)
        speech, wanted = speech * scale, wanted * scale
        noisy = speech + noise

        if rng.random() < 0.12:
            cutoff = rng.uniform(3000, 20000)
            noisy, wanted = _low_pass(noisy, cutoff), _low_pass(wanted, cutoff)
        if rng.random() < 0.1:
            steps = _gain_steps(self.length, rng)
            noisy, wanted = noisy * steps, wanted * steps
        if rng.random() < 0.05:
            limit = np.float32(rng.uniform(0.3, 1)) * np.abs(noisy).max()
            noisy = np.clip(noisy, -limit, limit)
        if rng.random() < 0.2:
            muted = _muted(self.length, rng)
            noisy, wanted = noisy * muted, wanted * muted
            if rng.random() < 0.3:  # the converter's own noise goes on
                noisy = noisy + 10 ** (rng.uniform(-100, -80) / 20) * rng.standard_normal(self.length)
        if self._place.random() < 0.08:
            noisy = noisy + _offset(self.length, self._place)
        noisy = uncoded = np.clip(noisy, -1, 1).astype(np.float32)
        if self._place.random() < 0.4:
            noisy = through_opus(noisy, round(np.exp(self._place.uniform(*np.log(RATES)))))
        return Mixture(noisy, uncoded, wanted.astype(np.float32), bandwidth)

    def _speech(self) -> tuple[Float, float]:
        rng = self.rng
        recording = self.corpus.speech[rng.choice(len(self.corpus.speech), p=self._weights["speech"])]
        up, down = _VOICE_SPEEDS[rng.integers(len(_VOICE_SPEEDS))]
        speech = self.corpus.crop(recording, -(-self.length * down // up) + down, rng)
        if up != down:
            speech = resample_poly(speech, up, down).astype(np.float32)
        speech = speech[: self.length]
        if rng.random() < 0.3:  # a call that begins, or pauses, with nobody speaking
            pause = int(rng.uniform(0.5, 4) * SAMPLE_RATE)
            start = int(rng.integers(max(self.length - pause, 1))) if rng.random() < 0.5 else 0
            edge = np.minimum(np.arange(pause)[::-1] / 480, 1) if start == 0 else np.ones(pause)
            speech = speech.copy()
            speech[start : start + pause] *= (1 - edge)[: self.length - start] if start == 0 else 0
        bandwidth = min(recording.bandwidth * down / up, _NYQUIST)
        speech = _tilt(speech, rng)
        return _equalise(speech, rng, 6) if rng.random() < 0.5 else speech, bandwidth

    def _noise(self) -> Float:
        rng = self.rng
        total = np.zeros(self.length, np.float32)
        for part in range(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1])):
            kind = rng.random()
            if kind < 0.08:
                noise = _coloured(self.length, rng)
                if rng.random() < 0.5:
                    noise = noise * _swell(self.length, rng)
            elif kind < 0.11:
                noise = _hum(self.length, rng)
            elif kind < 0.18:
                talkers = rng.choice(len(self.corpus.speech), rng.integers(3, 9))
                noise = sum(
                    (self.corpus.crop(self.corpus.speech[i], self.length, rng) for i in talkers), total * 0
                )
            else:
                recording = self.corpus.noise[rng.choice(len(self.corpus.noise), p=self._weights["noise"])]
                up, down = _NOISE_SPEEDS[rng.integers(len(_NOISE_SPEEDS))]
                noise = self.corpus.crop(recording, -(-self.length * down // up) + down, rng)
                if up != down:
                    noise = resample_poly(noise, up, down)
                noise = noise[: self.length][:: rng.choice([1, -1])]
            noise = noise / max(np.sqrt(np.mean(np.square(noise))), 1e-5)
            total += noise * (10 ** (rng.uniform(-12, 0) / 20) if part else 1)
        return _equalise(total, rng, 12)

    def _blast(self, noise: Float, level: float) -> None:
        """Add something up to 40 dB louder than the speech for up to a second: a slammed door, a knocked microphone."""
        rng = self.rng
        length = int(rng.uniform(0.02, 1) * SAMPLE_RATE)
        start = int(rng.integers(self.length - length))
        kind = rng.random()
        if kind < 0.6:
            recording = self.corpus.noise[rng.choice(len(self.corpus.noise), p=self._weights["noise"])]
            blast = self.corpus.crop(recording, length, rng)
        else:
            blast = _hum(length, rng) if kind < 0.8 else _coloured(length, rng)
        blast *= level / max(np.sqrt(np.mean(np.square(blast))), 1e-5) * 10 ** (rng.uniform(10, 40) / 20)
        edge = np.minimum(np.arange(length), np.arange(length)[::-1])
        noise[start : start + length] += blast * np.minimum(edge / rng.choice([1, 48, 480]), 1)


def _tilt(samples: Float, rng: np.random.Generator) -> Float:
    """A random second-order pole-zero filter, of gain within some 10 dB."""
    b = np.array([1, *rng.uniform(-3 / 8, 3 / 8, 2)])
    a = np.array([1, *rng.uniform(-3 / 8, 3 / 8, 2)])
    return lfilter(b, a, samples).astype(np.float32)


def _spectral(samples: Float, gain: Float) -> Float:
    return irfft(rfft(samples) * gain.astype(np.float32), len(samples))


def _equalise(samples: Float, rng: np.random.Generator, most: float) -> Float:
    """A random curve of ``±most`` dB with a knot every octave: what makes of one recording many."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE), 20) / 20)  # 0 … 10.2
    decibels = np.interp(octaves, np.arange(12), rng.uniform(-most, most, 12))
    return _spectral(samples, 10 ** (decibels / 20))


def _changed(noise: Float, rng: np.random.Generator) -> Float:
    """It begins, ends or becomes another at some time, within 1 to 500 ms, as in calls that do not begin in it."""
    edge = np.exp(rng.uniform(*np.log([48, 24_000])))
    after = np.clip((np.arange(len(noise)) - rng.uniform(0.1, 0.9) * len(noise)) / edge, 0, 1).astype(
        np.float32
    )
    other = noise * 0
    if rng.random() < 0.3:
        other = 10 ** (rng.uniform(-20, 10) / 20) * _equalise(noise[::-1], rng, 12)
    return noise + (other - noise) * (after if rng.random() < 0.3 else 1 - after)


def _offset(length: int, rng: np.random.Generator) -> Float:
    """What is below all hearing, of converters, wind and handling: a constant or a slow sway, at −60 to −26 dBFS."""
    level = 10 ** (rng.uniform(-60, -26) / 20)
    if rng.random() < 0.5:
        return np.full(length, level * rng.choice([-1, 1]), np.float32)
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    sway = _spectral(
        rng.standard_normal(length).astype(np.float32), ((hz > 2) & (hz < 20)).astype(np.float32)
    )
    return level * sway / max(float(np.sqrt(np.mean(np.square(sway)))), 1e-9)


def _swell(length: int, rng: np.random.Generator) -> Float:
    """Gain of a noise that comes and goes by some 10 dB, at 0.3 to 8 knots a second."""
    knots = rng.normal(0, 8, 2 + int(rng.uniform(0.3, 8) * length / SAMPLE_RATE))
    decibels = np.interp(np.linspace(0, len(knots) - 1, length), np.arange(len(knots)), knots)
    return (10 ** (decibels / 20)).astype(np.float32)


def _low_pass(samples: Float, cutoff: float) -> Float:
    """Cut above ``cutoff`` Hz with a transition of a tenth of it."""
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    gain = np.clip((1.1 * cutoff - hz) / (0.1 * cutoff), 0, 1)
    return _spectral(samples, gain.astype(np.float32))


def _coloured(length: int, rng: np.random.Generator) -> Float:
    """Stationary noise falling by 0 to 12 dB per octave."""
    hz = np.maximum(np.fft.rfftfreq(length, 1 / SAMPLE_RATE), 30)
    return _spectral(rng.standard_normal(length).astype(np.float32), (hz / 1000) ** -rng.uniform(0, 2))


def _hum(length: int, rng: np.random.Generator) -> Float:
    """Mains hum with harmonics, 50 or 60 Hz."""
    base = rng.choice([50, 60]) * rng.uniform(0.995, 1.005)
    harmonics = np.arange(1, int(rng.integers(4, 30)))
    amplitude = rng.uniform(0, 1, len(harmonics)) / harmonics ** rng.uniform(0.3, 1.5)
    phase = 2 * np.pi * base * np.arange(length) / SAMPLE_RATE
    return sum(
        (a * np.sin(k * phase + rng.uniform(0, 6.3)) for k, a in zip(harmonics, amplitude, strict=True)),
        np.zeros(length),
    ).astype(np.float32)


def _muted(length: int, rng: np.random.Generator) -> Float:
    """Gain of a microphone that is muted, for up to all but the last second: from the start on, or from anywhere."""
    pause = int(rng.uniform(0.3, 1) * rng.uniform(0.03, 1) * (length - SAMPLE_RATE))
    start = 0 if rng.random() < 0.5 else int(rng.integers(length - pause))
    edge = int(rng.choice([1, 48, 480]))  # samples: cut off, or faded within 1 or 10 ms
    distance = np.maximum(start - np.arange(length), np.arange(length) - (start + pause))
    return np.clip(distance / edge, 0, 1).astype(np.float32)


def _gain_steps(length: int, rng: np.random.Generator) -> Float:
    """Gain control that moves by up to 10 dB a few times, each within 50 ms."""
    knots = np.sort(rng.uniform(0, length, rng.integers(1, 4)))
    decibels = np.zeros(length)
    for knot in knots:
        decibels += rng.uniform(-10, 10) * np.clip((np.arange(length) - knot) / (0.05 * SAMPLE_RATE), 0, 1)
    return (10 ** (np.clip(decibels, -15, 10) / 20)).astype(np.float32)
