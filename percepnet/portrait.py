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
_BAND_TICKS: Final = range(0, BANDS, 6)


class _Recorder:
    """A network that keeps what it answered."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.gains: list[Float] = []
        self.strengths: list[Float] = []

    def __call__(self, features: Float, state: Float) -> tuple[Float, Float, Float]:
        gain, strength, state = self._network(features, state)
        self.gains.append(gain[0].copy())  # the enhancer changes its own
        self.strengths.append(strength[0].copy())
        return gain, strength, state


def portrait(clean: Float, noisy: Float, title: str, enhancer: Enhancer) -> bytes:
    """JPEG of five panels: noisy, enhanced and clean ``[n]`` at 48 kHz, the gains and the strengths.

    The enhancer is one of a single stream that has heard nothing yet.

    Spectrograms share their scale; gains are in dB, down to −30; all panels are aligned to the sound that they act on.
    """
    recorder = _Recorder(enhancer.network)
    enhancer.network = cast(Network, recorder)
    padding = LATENCY + (-len(noisy) - LATENCY) % HOP
    enhanced = enhancer.process(np.pad(noisy, (0, padding))[None])[0, LATENCY : LATENCY + len(noisy)]
    seconds, brightest = len(noisy) / SAMPLE_RATE, float(level_db(noisy).max())
    first = LATENCY // HOP - 1  # hops until the answers are about the clip's first frame
    gain, strength = (
        np.concatenate(x)[first : first + len(noisy) // HOP].T for x in (recorder.gains, recorder.strengths)
    )

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
