"""What the network should answer: ideal gains and comb strengths, from the clean speech behind a noisy signal.

Source: P20 section 3.3; the bias-free strength is derived in ``coherence``.
"""

from typing import NamedTuple

import numpy as np

from percepnet import bands, coherence, comb, framing
from percepnet.analysis import HISTORY, Analysis
from percepnet.framing import HOP, LOOKAHEAD, Complex, Float


class Targets(NamedTuple):
    """Of the same frames as the analysis, ``[streams, hops, BANDS]``."""

    gain: Float  # g_b in [0, 1]
    strength: Float  # r_b in [0, 1]
    clean: Complex  # X [.., BINS]


def targets(clean: Float, noisy: Analysis, background: Float | None = None) -> Targets:
    """Targets from ``clean [streams, HISTORY + hops · HOP]``, aligned with the samples that gave ``noisy``.

    background: band energies ``[streams, 1, BANDS]`` that even clean recordings have in their pauses, to be taken for
    noise: without them the targets would ask for 1 on the hiss of a pause and for 0 on the same hiss in noise.
    """
    hops = (clean.shape[1] - HISTORY) // HOP
    spectra = framing.spectrum(framing.frames(clean, hops, delay=LOOKAHEAD))
    combed = framing.spectrum(comb.comb(clean, noisy.period))
    energy, comb_energy = bands.energy(spectra), bands.energy(combed)
    measured = coherence.measured(bands.cross(combed, spectra), energy, comb_energy)
    clean_coherence = coherence.unbiased(measured, noisy.period)
    wanted = energy if background is None else np.maximum(energy - background, 0)
    gain = np.minimum(np.sqrt(wanted / np.maximum(noisy.energy, np.float32(1e-12))), 1)
    strength = coherence.ideal_strength(clean_coherence, noisy.coherence, noisy.measured, noisy.period)
    return Targets(gain, strength, spectra)
