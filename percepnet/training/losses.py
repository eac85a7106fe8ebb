"""The perceptual loss on gains and strengths (P20 section 4.2)."""

from dataclasses import dataclass
from typing import Final

from torch import Tensor

_EPS: Final = 1e-3  # the power has no gradient at 0


@dataclass(frozen=True)
class Loss:
    """What an error weighs."""

    gamma: float = 0.5  # compression: an error at a low gain is heard as well as one at a high gain
    speech: float = 0.0  # what a hop with speech weighs more, in hops without
    over: float = 0.0  # what a gain that is too low weighs more in such a hop, likewise


def band_loss(
    gain: Tensor,
    strength: Tensor,
    ideal_gain: Tensor,
    ideal_strength: Tensor,
    weight: Tensor,
    speaking: Tensor,
    kind: Loss,
) -> tuple[Tensor, Tensor]:
    """Mean gain loss and mean strength loss per band; arguments are ``[B, T, 34]``, but ``speaking [B, T, 1]``.

    gain: (g^γ − ĝ^γ)² + 10 (g^γ − ĝ^γ)⁴; strength: √((1−r)) likewise, without the fourth power, as far as the band is
    heard at all. ``weight`` in [0, 1] leaves out bands that are evidence of nothing; ``speaking`` is 0 or 1.
    """
    difference = (gain + _EPS) ** kind.gamma - (ideal_gain + _EPS) ** kind.gamma
    error = difference.square()
    heard = weight * (1 + speaking * (kind.speech + kind.over * (difference < 0)))
    strength_loss = ((1 - strength + _EPS) ** 0.5 - (1 - ideal_strength + _EPS) ** 0.5).square()
    total = (weight * (1 + kind.speech * speaking)).sum().clamp(min=1)
    gain_loss = (heard * (error + 10 * error.square())).sum() / total
    return gain_loss, (weight * ideal_gain * strength_loss).sum() / weight.sum().clamp(min=1)
