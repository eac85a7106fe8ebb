"""What the chain can carry: each stage of the design with the answers that a perfect network would give.

Resynthesises a mixture with ideal magnitudes per bin, ideal gains in 34 bands, the comb filter at ideal strengths and
the post-filter: the proof that the signal processing is right, and the ceiling of any network put into it.
"""

from collections.abc import Callable

import numpy as np

from percepnet import bands, framing
from percepnet.analysis import HISTORY, Analysis, AnalysisState, analyse
from percepnet.enhancer import Enhancer
from percepnet.framing import HOP, LATENCY, Complex, Float
from percepnet.resynthesis import enhance_spectra
from percepnet.targets import Targets, targets

_BLOCK: int = 100  # hops analysed at once


def _ideal_bins(frames: Analysis, ideal: Targets) -> Complex:
    gain = np.sqrt(bands.power(ideal.clean) / np.maximum(bands.power(frames.spectra), np.float32(1e-12)))
    return frames.spectra * np.minimum(gain, 1)


def _ideal_bands(frames: Analysis, ideal: Targets) -> Complex:
    return enhance_spectra(frames, ideal.gain, np.zeros_like(ideal.strength))


def _ideal_comb(frames: Analysis, ideal: Targets) -> Complex:
    return enhance_spectra(frames, ideal.gain, ideal.strength)


def _ideal_postfilter(frames: Analysis, ideal: Targets) -> Complex:
    return enhance_spectra(frames, ideal.gain, ideal.strength, np.ones_like(ideal.gain[..., 0]))


IDEAL: dict[str, Callable[[Analysis, Targets], Complex]] = {
    "ideal bins": _ideal_bins,
    "ideal bands": _ideal_bands,
    "bands + comb": _ideal_comb,
    "with post-filter": _ideal_postfilter,
}


def stages(clean: Float, noise: Float) -> dict[str, Float]:
    """Six versions of ``clean + noise``, in the order of the design.

    clean, noise: float32 ``[samples]`` at 48 kHz, equal lengths, already at the wanted ratio
    Returns name → ``[samples]``, delay compensated: noisy, the four ideal stages, the trained network.
    Raises ValueError for other shapes.
    """
    if clean.ndim != 1 or clean.shape != noise.shape:
        raise ValueError(
            f"clean and noise must be [samples] of equal length, got {clean.shape}, {noise.shape}"
        )
    noisy = (clean + noise).astype(np.float32)
    padding = (-len(noisy)) % HOP + LATENCY
    rows = np.pad(np.stack([noisy, clean.astype(np.float32)]), ((0, 0), (HISTORY, padding)))

    state = AnalysisState.new(1)
    tails = {name: np.zeros((1, HOP), np.float32) for name in IDEAL}
    parts: dict[str, list[Float]] = {name: [] for name in IDEAL}
    hops = (rows.shape[1] - HISTORY) // HOP
    for start in range(0, hops, _BLOCK):
        block = rows[:, start * HOP : HISTORY + min(start + _BLOCK, hops) * HOP]
        frames = analyse(block[:1], state)
        ideal = targets(block[1:], frames)
        for name, resynthesise in IDEAL.items():
            frame = framing.synthesis(resynthesise(frames, ideal))
            parts[name].append(framing.overlap_add(frame, tails[name])[0])

    out = {"noisy": noisy}
    for name, blocks in parts.items():
        out[name] = np.concatenate(blocks)[LATENCY : LATENCY + len(noisy)]
    network = Enhancer(streams=1).process(rows[:1, HISTORY:])[0]
    out["network"] = network[LATENCY : LATENCY + len(noisy)]
    return out
