"""Mixtures of clean speech and noise at a wanted ratio."""

from typing import Final

import numpy as np

from percepnet.framing import SAMPLE_RATE, Float

FRAME: Final = SAMPLE_RATE // 50  # samples, 20 ms
ACTIVE_RANGE: Final = 30.0  # dB below the loud frames that still counts as speech
WORD_PAUSE: Final = 15  # hops without speech before what counts as a word's beginning
WORD: Final = 10  # hops of it, 100 ms
PEAK: Final = 0.99  # of full scale, the most that a mixture reaches


def active_level(speech: Float) -> float:
    """RMS of ``speech [n]`` over the frames of 20 ms that hold speech, not the pauses; 0 if silent.

    A frame counts if it is less than 30 dB below the 95th percentile of those that are not digital silence.
    """
    power = np.pad(speech.astype(np.float64), (0, -len(speech) % FRAME)).reshape(-1, FRAME) ** 2
    energy = power.mean(axis=1)
    sounding = energy[energy > 0]
    if not len(sounding):
        return 0.0
    threshold = np.percentile(sounding, 95) * 10 ** (-ACTIVE_RANGE / 10)
    return float(np.sqrt(energy[energy >= threshold].mean()))


def at_ratio(clean: Float, noise: Float, snr_db: float) -> tuple[Float, Float]:
    """``clean [n]`` and ``noise [n]`` scaled so that their sum has the wanted signal-to-noise ratio.

    The ratio is the speech's active level to the noise's RMS. Only the noise is scaled, unless the sum would
    pass full scale: then both are turned down. ValueError if either is silent or the lengths differ.
    """
    if clean.ndim != 1 or clean.shape != noise.shape:
        raise ValueError(f"clean has shape {clean.shape}, noise {noise.shape}; allowed are two equal [n]")
    speech_level = active_level(clean)
    noise_level = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))
    if not speech_level or not noise_level:
        raise ValueError(f"{'noise' if speech_level else 'clean'} is silent; there is no ratio to silence")
    scaled = noise * np.float32(speech_level / noise_level * 10 ** (-snr_db / 20))
    down = np.float32(min(1.0, PEAK / np.abs(clean + scaled).max()))
    return clean * down, scaled * down


def excerpt(samples: Float, length: int, rng: np.random.Generator) -> Float:
    """``length`` samples of ``samples [n]`` from a random place; looped where ``samples`` is too short."""
    if not len(samples):
        raise ValueError("samples is empty; allowed is one sample or more")
    if len(samples) < length:
        start = int(rng.integers(len(samples)))
        return np.resize(np.roll(samples, -start), length)
    start = int(rng.integers(len(samples) - length + 1))
    return samples[start : start + length]
