"""From samples to what the network is told and what it acts on: spectra, pitch, comb filter, coherence, features."""

from dataclasses import dataclass, fields
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from percepnet import bands, coherence, comb, framing, pitch
from percepnet.features import features, new_reference
from percepnet.framing import HOP, LOOKAHEAD, WINDOW, Complex, Float
from percepnet.pitch import PitchState

HISTORY: Final = comb.HISTORY + WINDOW + LOOKAHEAD * HOP - HOP  # samples kept of the past: 5280, 11 hops


@dataclass(slots=True)
class AnalysisState:
    """What the analysis keeps of each stream, except the samples themselves."""

    pitch: PitchState
    spectra: Complex  # [streams, LOOKAHEAD, BINS] of the frames not yet decided
    energy: Float  # [streams, LOOKAHEAD, BANDS] of the same
    reference: Float  # [streams] level, see features()

    @classmethod
    def new(cls, streams: int) -> Self:
        undecided = np.zeros((streams, LOOKAHEAD, framing.BINS), np.complex64)
        energy = np.zeros((streams, LOOKAHEAD, bands.BANDS), np.float32)
        return cls(PitchState.new(streams), undecided, energy, new_reference(streams))

    def rows(self, rows: NDArray[np.int64]) -> "AnalysisState":
        """A copy of some streams."""
        part = PitchState(*(getattr(self.pitch, f.name)[rows] for f in fields(PitchState)))
        return AnalysisState(part, self.spectra[rows], self.energy[rows], self.reference[rows])

    def put(self, rows: NDArray[np.int64], part: "AnalysisState") -> None:
        """Write back what ``rows`` gave."""
        for f in fields(PitchState):
            getattr(self.pitch, f.name)[rows] = getattr(part.pitch, f.name)
        self.spectra[rows] = part.spectra
        self.energy[rows] = part.energy
        self.reference[rows] = part.reference


class Analysis(NamedTuple):
    """The frames ``LOOKAHEAD`` hops before the newest, ``[streams, hops, …]``."""

    spectra: Complex  # Y [.., BINS]
    comb: Complex  # P̂ [.., BINS]
    energy: Float  # ‖Y_b‖² [.., BANDS]
    comb_energy: Float  # ‖P̂_b‖² [.., BANDS]
    measured: Float  # m_b [.., BANDS]
    coherence: Float  # q_b [.., BANDS]
    period: NDArray[np.int64]  # T [..]
    features: Float  # [.., FEATURES]; its band levels are of the newest frames


def analyse(samples: Float, state: AnalysisState) -> Analysis:
    """Analyse the hops at the end of ``samples [streams, HISTORY + hops · HOP]``; ``state`` is updated in place."""
    hops = (samples.shape[1] - HISTORY) // HOP
    newest = framing.spectrum(framing.frames(samples, hops))
    power = bands.power(newest)
    newest_energy = bands.sums(power)
    period, correlation = pitch.track(newest, power, state.pitch)

    spectra = np.concatenate([state.spectra, newest], axis=1)
    energy = np.concatenate([state.energy, newest_energy], axis=1)
    state.spectra[:], spectra = spectra[:, hops:], spectra[:, :hops]
    state.energy[:], energy = energy[:, hops:], energy[:, :hops]
    combed = framing.spectrum(comb.comb(samples, period))

    bins = np.empty((2, *combed.shape), np.float32)
    bins[0], bins[1] = bands.power(combed), bands.product(combed, spectra)
    comb_energy, cross = bands.sums(bins)
    measured = coherence.measured(cross, energy, comb_energy)
    unbiased = coherence.unbiased(measured, period)
    inputs = features(newest_energy, unbiased, period, correlation, state.reference)
    return Analysis(spectra, combed, energy, comb_energy, measured, unbiased, period, inputs)
