"""From samples to what the network is told and what it acts on: spectra, pitch, comb filter, coherence, features."""

from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from percepnet import bands, coherence, comb, framing, native, pitch
from percepnet.features import features
from percepnet.framing import HOP, LOOKAHEAD, WINDOW, Complex, Float
from percepnet.pitch import PitchState

HISTORY: Final = comb.HISTORY + WINDOW + LOOKAHEAD * HOP - HOP  # samples kept of the past: 5280, 11 hops


class AnalysisState:
    """What the analysis keeps of each stream, except the samples themselves: views of ``whole``."""

    def __init__(self, whole: Float) -> None:
        self.whole = whole  # [streams, …], in the order of ``State`` in chain.c

    @classmethod
    def new(cls, streams: int) -> Self:
        state = cls(np.zeros((streams, native.STATE), np.float32))
        state.reference[:] = np.nan
        return state

    @property
    def spectra(self) -> Complex:
        """``[streams, LOOKAHEAD, BINS]`` of the frames not yet decided"""
        whole = self.whole[:, : native.SPECTRA].view(np.complex64)
        return whole.reshape(len(whole), LOOKAHEAD, framing.BINS)

    @property
    def energy(self) -> Float:
        """``[streams, LOOKAHEAD, BANDS]`` of the same"""
        return self.whole[:, native.SPECTRA : native.REFERENCE].reshape(
            len(self.whole), LOOKAHEAD, bands.BANDS
        )

    @property
    def reference(self) -> Float:
        """``[streams]`` level, see ``features``"""
        return self.whole[:, native.REFERENCE]

    @property
    def pitch(self) -> PitchState:
        return PitchState.of(self.whole[:, native.REFERENCE + 1 :])

    def rows(self, rows: NDArray[np.int64]) -> "AnalysisState":
        """A copy of some streams."""
        return AnalysisState(self.whole[rows])

    def put(self, rows: NDArray[np.int64], part: "AnalysisState") -> None:
        """Write back what ``rows`` gave."""
        self.whole[rows] = part.whole


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
    if native.library is not None:
        return _compiled(samples, newest, state)
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


def _compiled(samples: Float, newest: Complex, state: AnalysisState) -> Analysis:
    """The rest of ``analyse`` by ``chain.c``, between whose parts are the transforms."""
    flattened, newest_energy = native.flatten(newest)
    excitation = pitch.excitation(flattened)
    period, peak, frames = native.track(excitation, samples, state.whole)
    combed = framing.transform(frames)
    spectra, energy, comb_energy, measured, inputs = native.measure(
        newest, newest_energy, combed, period, peak, state.whole
    )
    unbiased = inputs[..., bands.BANDS : 2 * bands.BANDS]
    return Analysis(spectra, combed, energy, comb_energy, measured, unbiased, period, inputs)
