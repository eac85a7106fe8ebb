"""The perceptual loss on gains and strengths (P20 section 4.2)."""

from typing import Final

from torch import Tensor

_GAMMA: Final = 0.5  # compression: an error at a low gain is heard as well as one at a high gain
_EPS: Final = 1e-3  # the power has no gradient at 0


def band_loss(
    gain: Tensor, strength: Tensor, ideal_gain: Tensor, ideal_strength: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean gain loss and mean strength loss per band; all arguments are ``[B, T, 34]``.

    gain: (g^γ − ĝ^γ)² + 10 (g^γ − ĝ^γ)⁴; strength: ((1−r)^γ − (1−r̂)^γ)², as far as the band is heard at all.
    ``weight`` in [0, 1] leaves out bands that are evidence of nothing.
    """
    error = ((gain + _EPS) ** _GAMMA - (ideal_gain + _EPS) ** _GAMMA).square()
    gain_loss = error + 10 * error.square()
    strength_loss = ((1 - strength + _EPS) ** _GAMMA - (1 - ideal_strength + _EPS) ** _GAMMA).square()
    total = weight.sum().clamp(min=1)
    return (weight * gain_loss).sum() / total, (weight * ideal_gain * strength_loss).sum() / total
