"""Scores of what the network does to sound, for the loss does not tell: fixed mixtures through the real chain."""

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from percepnet.enhancer import Enhancer
from percepnet.framing import HOP, LATENCY, SAMPLE_RATE, Float
from percepnet.training.corpus import Corpus
from percepnet.training.mixing import Mixer, Mixture
from percepnet.training.topologies import AnyTopology, build

_COUNT: Final = 12
_SECONDS: Final = 8
_SEED: Final = 2 * 10**6  # of no shard
# a hop is speech down to 30 dB below the loud ones, and a pause from 50 dB below them on
_RANGE: Final = 1e-3
_PAUSE: Final = 1e-5


class Examples:
    """A few validation mixtures of speech with noise."""

    def __init__(self, corpus: Corpus) -> None:
        mixer = Mixer(corpus, _SECONDS * SAMPLE_RATE, _SEED)
        self.mixtures: list[Mixture] = []
        while len(self.mixtures) < _COUNT:
            mixture = mixer.draw()
            speaking, pause = _parts(mixture.clean)
            if speaking.any() and pause.any() and (mixture.noisy != mixture.clean).any():
                self.mixtures.append(mixture)

    def scores(self, topology: AnyTopology, weights: dict[str, Tensor]) -> dict[str, float]:
        """Means over the mixtures.

        ``si_sdr`` in dB and ``pesq_wb``, where the extra ``[eval]`` is installed; ``noise_reduction``: dB by which the
        pauses are quieter; ``speech_loss``: dB by which the hops with speech are, as far as the clean speech is still
        in them.
        """
        arrays = {name: value.detach().cpu().numpy() for name, value in weights.items()}
        noisy = np.stack([mixture.noisy for mixture in self.mixtures])
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(build(topology, arrays, quantised=False), path)
            enhancer = Enhancer(streams=len(noisy), model=path)
        out = enhancer.process(np.pad(noisy, ((0, 0), (0, LATENCY + -noisy.shape[1] % HOP))))
        out = out[:, LATENCY : LATENCY + noisy.shape[1]]
        rows = [_scores(mixture, enhanced) for mixture, enhanced in zip(self.mixtures, out, strict=True)]
        return {name: round(float(np.nanmean([row[name] for row in rows])), 3) for name in rows[0]}


def _scores(mixture: Mixture, enhanced: Float) -> dict[str, float]:
    clean, noisy = mixture.clean, mixture.noisy
    speaking, pause = (np.repeat(part, HOP) for part in _parts(clean))
    clean, noisy, enhanced = (x[: len(speaking)] for x in (clean, noisy, enhanced))
    kept = float(np.vdot(enhanced[speaking], clean[speaking]) / np.vdot(clean[speaking], clean[speaking]))
    found = {
        "noise_reduction": _level(noisy[pause]) - _level(enhanced[pause]),
        "speech_loss": -20 * math.log10(max(kept, 1e-5)),
    }
    try:
        from percepnet.evaluation import scores
    except ModuleNotFoundError:
        return found
    return found | scores(clean, enhanced, SAMPLE_RATE, ("si_sdr", "pesq_wb"))


def _parts(clean: Float) -> tuple[NDArray[np.bool], NDArray[np.bool]]:
    """Which hops ``[n]`` of ``clean`` are speech, and which are pauses."""
    energy = np.square(clean[: len(clean) // HOP * HOP]).reshape(-1, HOP).mean(1)
    loud = np.percentile(energy[energy > 0], 95) if energy.any() else 1.0
    return energy > _RANGE * loud, energy < _PAUSE * loud


def _level(samples: Float) -> float:
    return 10 * math.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-10)
