"""What a suppressor must not do: measures beside the scores of ``evaluation``, each of one clip at 48 kHz.

``Suppressor`` is float32 ``[n]`` → ``[n]`` without delay. All measures return name → value in the unit of ``BARS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from percepnet import bands, framing
from percepnet.enhancer import Enhancer
from percepnet.evaluation import scores
from percepnet.framing import HOP, LATENCY, SAMPLE_RATE, Float
from percepnet.mixture import WORD, WORD_PAUSE, active_level, at_ratio
from percepnet.network import Network
from percepnet.resampling import resample

Suppressor: TypeAlias = Callable[[Float], Float]

WORD_TOLERANCE: Final = 1.5  # dB
_SPEECH_RANGE: Final = 1e-3  # a word begins where the power comes within 30 dB of the loud hops
_PAUSE_RANGE: Final = 1e-4
_MACHINE_SECONDS: Final = 6
_SETTLED: Final = SAMPLE_RATE  # samples until a noise counts: a call's first second


@dataclass(frozen=True)
class Bar:
    """A line of the table: what is measured, how clips are summed up, and the bound."""

    label: str
    unit: str
    bound: float | None  # None: for information
    least: bool = False  # the bound is the least allowed, not the most
    median: bool = False  # over clips, not the mean
    digits: int = 2


BARS: Final[Mapping[str, Bar]] = MappingProxyType(
    {
        "clean_sig": Bar("clean speech: fall of SIG", "", 0.05, digits=3),
        "clean_pesq": Bar("clean speech: PESQ-WB", "", 4.0, least=True),
        "clean_words": Bar("clean speech: words whose first 100 ms are within 1.5 dB", "%", 100, True, digits=1),
        "clean_word_change": Bar("clean speech: change of the first 100 ms of a word", "dB", None),
        "quiet_pesq": Bar("speech at −45 against −20 dBFS, 10 dB SNR: fall of PESQ-WB", "", 0.05, digits=3),
        "quiet_level": Bar("speech at −45 against −20 dBFS: fall of the level", "dB", 0.5),
        "noise_attenuation": Bar("noise only: attenuation, median", "dB", 25, least=True, median=True, digits=1),
        "begun_attenuation": Bar("noise after 20 s of speech: attenuation in its 2nd s", "dB", None, False, True, 1),
        "begun_pesq": Bar("speech in noise after 20 s without, 10 dB SNR: PESQ-WB lost by that", "", None, digits=3),
        "band_8": Bar("speech of 8 kHz: loss of the worst band from 2 to 3.6 kHz", "dB", 3),
        "band_16": Bar("speech of 16 kHz: loss of the worst band from 4 to 7.2 kHz", "dB", 3),
        "comb_pesq": Bar("voiced speech at 5 dB: PESQ-WB that the comb filter brings", "", 0, True, digits=3),
        "comb_machine": Bar("humming machine: attenuation that the comb filter costs", "dB", 0.5),
        "machine_attenuation": Bar("humming machine: attenuation", "dB", None, digits=1),
        "int8_pesq": Bar("eight bits against float: PESQ-WB lost", "", 0.02, digits=3),
        "int8_ovrl": Bar("eight bits against float: OVRL lost", "", 0.02, digits=3),
        "wer": Bar("words that a recogniser gets wrong at 0–10 dB, enhanced less noisy", "%", 0, digits=1),
        "wer_noisy": Bar("the same, noisy", "%", None, digits=1),
    }
)  # fmt: skip


class WithoutComb(Network):
    """A network whose strengths are 0."""

    def __call__(self, features: Float, state: Float) -> tuple[Float, Float, Float]:
        gain, strength, state = super().__call__(features, state)
        return gain, np.zeros_like(strength), state


def suppressor(
    model: Path | None,
    *,
    postfilter: bool = True,
    comb: bool = True,
    attenuation_limit_db: float | None = None,
) -> Suppressor:
    """The enhancer with this network, a fresh one for each clip; without ``comb`` its strengths are 0."""

    def enhance(samples: Float) -> Float:
        enhancer = Enhancer(model=model, postfilter=postfilter, attenuation_limit_db=attenuation_limit_db)
        if not comb:
            enhancer.network = WithoutComb(model)
        padding = LATENCY + (-len(samples) - LATENCY) % HOP
        return enhancer.process(np.pad(samples, (0, padding))[None])[0, LATENCY : LATENCY + len(samples)]

    return enhance


def clean_speech(
    enhance: Suppressor, clean: Float, once: int | None = None
) -> dict[str, float | list[float]]:
    """What happens to speech without noise; after ``once`` samples it repeats itself, and its words are not counted."""
    out = enhance(clean)
    before, after = (scores(clean, x, SAMPLE_RATE, ("dnsmos_sig", "pesq_wb")) for x in (clean, out))
    change = word_changes(clean[:once], out[:once])
    return {
        "clean_sig": before["dnsmos_sig"] - after["dnsmos_sig"],
        "clean_pesq": after["pesq_wb"],
        "clean_words": [100.0 * (abs(x) <= WORD_TOLERANCE) for x in change],
        "clean_word_change": change,
    }


def word_changes(clean: Float, out: Float) -> list[float]:
    """Level of ``out`` less that of ``clean`` in dB, in the first 100 ms of each word after a pause."""
    power = _hop_power(clean)
    if not power.any():
        return []
    loud = np.percentile(power[power > 0], 95)
    speaking, silent = power > _SPEECH_RANGE * loud, power < _PAUSE_RANGE * loud
    found = []
    for hop in np.flatnonzero(speaking[1:] & ~speaking[:-1]) + 1:
        # the rise itself may take a few hops from pause to speech
        if (
            hop >= WORD_PAUSE + 3
            and silent[hop - WORD_PAUSE - 3 : hop - 3].all()
            and hop + WORD <= len(power)
        ):
            word = slice(hop * HOP, (hop + WORD) * HOP)
            found.append(_level(out[word]) - _level(clean[word]))
    return found


def quiet_speech(enhance: Suppressor, clean: Float, noise: Float) -> dict[str, float]:
    """The same mixture at −45 and at −20 dBFS."""
    clean, noise = at_ratio(clean, noise, 10)
    rated = {}
    for level in (-45, -20):
        scale = np.float32(10 ** (level / 20) / active_level(clean))
        out = enhance((clean + noise) * scale) / scale
        rated[level] = scores(clean, out, SAMPLE_RATE, ("pesq_wb",))["pesq_wb"], _level(out)
    return {"quiet_pesq": rated[-20][0] - rated[-45][0], "quiet_level": rated[-20][1] - rated[-45][1]}


def noise_only(enhance: Suppressor, noise: Float) -> dict[str, float]:
    """Attenuation of noise in dB after the first second."""
    return {"noise_attenuation": _level(noise[_SETTLED:]) - _level(enhance(noise)[_SETTLED:])}


def noise_that_begins(enhance: Suppressor, clean: Float, noise: Float) -> dict[str, float]:
    """Noise that a call has not been in from its start on: after 20 s of ``clean``, alone and with the speech."""
    clean, noise = at_ratio(clean, noise, 10)
    before = np.resize(clean, 20 * SAMPLE_RATE)
    alone, mixed = (enhance(np.concatenate([before, x]))[len(before) :] for x in (noise, clean + noise))
    second = slice(SAMPLE_RATE, 2 * SAMPLE_RATE)
    fresh, late = (
        scores(clean, x, SAMPLE_RATE, ("pesq_wb",))["pesq_wb"] for x in (enhance(clean + noise), mixed)
    )
    return {
        "begun_attenuation": _level(noise[second]) - _level(alone[second]),
        "begun_pesq": fresh - late,
    }


def narrow_speech(enhance: Suppressor, clean: Float) -> dict[str, float]:
    """The loss in dB of the worst of the upper bands of speech that a telephone or Bluetooth brings, over all hops."""
    found = {}
    for rate in (8_000, 16_000):
        narrow = resample(resample(clean[None], SAMPLE_RATE, rate), rate, SAMPLE_RATE)[0, : len(clean)]
        inside = np.abs(bands.CENTRES_HZ - 0.35 * rate) <= 0.1 * rate  # a quarter of the rate to 0.45 of it
        before, after = (_band_levels(x)[inside] for x in (narrow, enhance(narrow)))
        found[f"band_{rate // 1000}"] = float((before - after).max())
    return found


def comb_gain(enhance: Suppressor, without: Suppressor, clean: Float, noise: Float) -> dict[str, float]:
    """What the strengths bring to speech in noise."""
    clean, noise = at_ratio(clean, noise, 5)
    with_comb, plain = (
        scores(clean, f(clean + noise), SAMPLE_RATE, ("pesq_wb",))["pesq_wb"] for f in (enhance, without)
    )
    return {"comb_pesq": with_comb - plain}


def machine(enhance: Suppressor, without: Suppressor, rng: np.random.Generator) -> dict[str, float]:
    """A machine that hums at the pitch of a voice: 20 harmonics that waver a little, and noise 10 dB below them."""
    length = _MACHINE_SECONDS * SAMPLE_RATE
    time = np.arange(length) / SAMPLE_RATE
    phase = 2 * np.pi * rng.uniform(80, 300) * (time + 0.002 * np.sin(2 * np.pi * 0.5 * time))
    harmonics = np.arange(1, 21)
    hum = (np.sin(np.outer(harmonics, phase)) / harmonics[:, None]).sum(0)
    sound = 0.05 * (hum / hum.std() + 10**-0.5 * rng.standard_normal(length))
    sound = sound.astype(np.float32)
    with_comb, plain = (_level(sound[_SETTLED:]) - _level(f(sound)[_SETTLED:]) for f in (enhance, without))
    return {"machine_attenuation": with_comb, "comb_machine": plain - with_comb}


def eight_bits(enhance: Suppressor, exact: Suppressor, clean: Float, noise: Float) -> dict[str, float]:
    """What eight bits lose of the scores, at 5 dB."""
    clean, noise = at_ratio(clean, noise, 5)
    rated, wanted = (
        scores(clean, f(clean + noise), SAMPLE_RATE, ("pesq_wb", "dnsmos_ovrl")) for f in (enhance, exact)
    )
    return {
        "int8_pesq": wanted["pesq_wb"] - rated["pesq_wb"],
        "int8_ovrl": wanted["dnsmos_ovrl"] - rated["dnsmos_ovrl"],
    }


def _hop_power(samples: Float) -> NDArray[np.float64]:
    hops = samples[: len(samples) // HOP * HOP].reshape(-1, HOP)
    power: NDArray[np.float64] = np.square(hops, dtype=np.float64).mean(1)
    return power


def _level(samples: Float) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))


def _band_levels(samples: Float) -> NDArray[np.float64]:
    """dB ``[BANDS]`` of all of ``samples [n]``."""
    hops = len(samples) // HOP - 1
    energy = bands.energy(framing.spectrum(framing.frames(samples[None], hops)))[0]
    return 10 * np.log10(energy.mean(0, dtype=np.float64) + 1e-12)
