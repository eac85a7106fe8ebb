"""From band gains and comb strengths to the enhanced spectrum."""

import numpy as np

from percepnet import bands, native
from percepnet.analysis import Analysis
from percepnet.framing import Complex, Float
from percepnet.postfilter import envelope_postfilter

_TINY = np.float32(1e-12)


def enhance_spectra(frames: Analysis, gain: Float, strength: Float, post: Float | None = None) -> Complex:
    """Mix each band with its comb-filtered twin and scale it to ``gain · ‖Y_b‖``.

    gain g_b ≥ 0 and strength r_b in [0, 1]: ``[streams, hops, BANDS]``; post: the share in [0, 1] of the post-filter
    that the gains go through before, ``[streams, hops]``. Returns ``[streams, hops, BINS]``.
    Z = (1−r)Y + r·P̂·‖Y_b‖/‖P̂_b‖ has another energy than Y, so it is measured and scaled by g·‖Y_b‖/‖Z_b‖.
    """
    if native.library is not None:
        post = np.zeros(gain.shape[:2], np.float32) if post is None else post
        return native.enhance(
            frames.spectra, frames.comb, frames.energy, frames.comb_energy, gain, strength, post
        )
    if post is not None and post.any():
        gain = gain + post[..., None] * (envelope_postfilter(gain, np.sqrt(frames.energy)) - gain)
    align = np.sqrt(frames.energy / np.maximum(frames.comb_energy, _TINY))
    shares = np.empty((2, *strength.shape), np.float32)
    np.subtract(1, strength, out=shares[0])
    np.multiply(strength, np.minimum(align, 30, out=align), out=shares[1])
    shares = bands.interpolate(shares)
    mixed = shares[0] * frames.spectra
    mixed += shares[1] * frames.comb
    scale = np.sqrt(frames.energy / np.maximum(bands.energy(mixed), _TINY))
    # where nothing was mixed in, ‖Z_b‖ = ‖Y_b‖ and the scale is exactly the gain
    scale = np.where(frames.energy > _TINY, np.minimum(scale, 30), 1) * gain
    mixed *= bands.interpolate(scale)
    return mixed
