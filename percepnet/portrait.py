"""A picture of what the network does to a clip: spectrograms, gains and strengths over time. Extra ``[eval]``."""

import io
from typing import Final, cast

import numpy as np
from matplotlib.figure import Figure

from percepnet.bands import BANDS, CENTRES_HZ
from percepnet.enhancer import Enhancer
from percepnet.framing import HOP, LATENCY, SAMPLE_RATE, Float
from percepnet.network import Network
from percepnet.report import HIGHEST, RANGE, level_db

_QUALITY: Final = 60  # of JPEG: some 80 kB
# a hop that is not enhanced
_DRY: Final = np.stack([np.ones(BANDS, np.float32), np.zeros(BANDS, np.float32)])
_BAND_TICKS: Final = range(0, BANDS, 6)


class _Recorder:
    """A network that keeps what it answered of the hop at hand: gains and strengths ``[2, BANDS]``."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.answer = _DRY

    def __call__(self, features: Float, state: Float) -> tuple[Float, Float, Float]:
        gain, strength, state = self._network(features, state)
        self.answer = np.stack([gain[0, -1], strength[0, -1]])  # a copy: the enhancer changes its own
        return gain, strength, state


def portrait(clean: Float, noisy: Float, title: str, enhancer: Enhancer) -> bytes:
    """JPEG of five panels: noisy, enhanced and clean ``[n]`` at 48 kHz, the gains and the strengths.

    The enhancer is one of a single stream that has heard nothing yet.

    Spectrograms share their scale; gains are in dB, down to −30; all panels are aligned to the sound that they act on.
    """
    enhanced, gain, strength = _heard(noisy, enhancer)
    seconds, brightest = len(noisy) / SAMPLE_RATE, float(level_db(noisy).max())

    figure = Figure(figsize=(9, 10), dpi=75, layout="constrained")
    panels = figure.subplots(5, sharex=True)
    figure.suptitle(title)
    for panel, name, samples in zip(
        panels, ("noisy", "enhanced", "clean"), (noisy, enhanced, clean), strict=False
    ):
        image = panel.imshow(
            level_db(samples),
            vmin=brightest - RANGE,
            vmax=brightest,
            extent=(0, seconds, 0, HIGHEST / 1000),
            origin="lower",
            aspect="auto",
            cmap="magma",
        )
        panel.set_ylabel(f"{name}, kHz")
    figure.colorbar(image, ax=panels[:3], label="dB")
    for panel, name, values, low, high in (
        (panels[3], "gain, dB", 20 * np.log10(np.maximum(gain, 1e-3)), -30, 0),
        (panels[4], "strength", strength, 0, 1),
    ):
        image = panel.imshow(
            values,
            vmin=low,
            vmax=high,
            extent=(0, seconds, -0.5, BANDS - 0.5),
            origin="lower",
            aspect="auto",
            cmap="viridis",
        )
        panel.set_yticks(_BAND_TICKS, [f"{CENTRES_HZ[band] / 1000:g}" for band in _BAND_TICKS])
        panel.set_ylabel("bands, kHz")
        figure.colorbar(image, ax=panel, label=name)
    panels[-1].set_xlabel("s")
    out = io.BytesIO()
    figure.savefig(out, format="jpeg", pil_kwargs={"quality": _QUALITY})
    return out.getvalue()


def _heard(noisy: Float, enhancer: Enhancer) -> tuple[Float, Float, Float]:
    """What is made of ``noisy [n]``, and the gains and strengths ``[BANDS, hops]`` that each hop is made with."""
    recorder = _Recorder(enhancer.network)
    enhancer.network = cast(Network, recorder)
    padding = LATENCY + (-len(noisy) - LATENCY) % HOP
    parts, answers = [], []
    for hop in np.pad(noisy, (0, padding)).reshape(-1, 1, HOP):
        recorder.answer = _DRY  # unless it is asked
        parts.append(enhancer.process(hop)[0])
        answers.append(recorder.answer)
    first = LATENCY // HOP - 1  # hops until the answers are about the clip's first frame
    gain, strength = np.stack(answers, axis=-1)[..., first : first + len(noisy) // HOP]
    return np.concatenate(parts)[LATENCY : LATENCY + len(noisy)], gain, strength
