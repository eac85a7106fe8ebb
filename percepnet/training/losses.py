"""The loss on gains and strengths: how far they are from the ideal ones (P20 section 4.2), and how loud that is."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from percepnet.bands import WIDTHS
from percepnet.framing import LOOKAHEAD
from percepnet.postfilter import BETA

_EPS: Final = 1e-3  # the power has no gradient at 0
_STEVENS: Final = 0.23  # loudness of a band from its energy (Zwicker; ITU-T P.862)
_INAUDIBLE: Final = 10**-4.5  # of the mean band at the level reference: what is masked or below the threshold


@dataclass(frozen=True)
class Loss:
    """What an error weighs."""

    gamma: float = 0.7  # compression: an error at a low gain is heard as well as one at a high gain
    speech: float = 0.0  # what a hop with speech weighs more, in hops without
    over: float = 0.0  # what a gain that is too low weighs more in such a hop, likewise
    loudness: float = 0.8  # share of the error of loudness, from 0 to 1; that of the gains has the rest
    added: float = 0.0  # what weighs more there: loudness that should not be


def total_loss(
    gain: Tensor, strength: Tensor, ideal: tuple[Tensor, Tensor, Tensor, Tensor], levels: Tensor, kind: Loss
) -> Tensor:
    """What training lowers. ``ideal`` as ``batches.split`` has it, ``levels [B, T, 34]``: the band levels that the
    network was told."""
    gain_loss, strength_loss = band_loss(gain, strength, *ideal, kind)
    loss = (1 - kind.loudness) * gain_loss + strength_loss
    if kind.loudness:
        loss = loss + kind.loudness * loudness_loss(gain, ideal[0], levels, ideal[2], kind.added)
    return loss


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


def loudness_loss(
    gain: Tensor, ideal_gain: Tensor, levels: Tensor, weight: Tensor, added: float = 0.0
) -> Tensor:
    """Mean square error of the loudness of each band behind the post-filter; arguments are ``[B, T, 34]``.

    ``levels`` as in ``features``, of the frames ``LOOKAHEAD`` hops after those that the gains are for; ``added`` is
    what a band that is too loud weighs more, as added noise is heard more than what is left out (ITU-T P.862).
    """
    hops = gain.shape[1] - LOOKAHEAD
    energy = 10 ** (2 * levels[:, :hops]) * levels.new_tensor(WIDTHS)  # of the mean band at the reference
    gain, ideal_gain, weight = (x[:, LOOKAHEAD:] for x in (gain, ideal_gain, weight))
    difference = _loudness(_postfilter(gain, energy).square() * energy) - _loudness(
        ideal_gain.square() * energy
    )
    heard = weight * (1 + added * (difference > 0))
    return (heard * difference.square()).sum() / weight.sum().clamp(min=1)


def _loudness(energy: Tensor) -> Tensor:
    return (energy + _INAUDIBLE) ** _STEVENS - _INAUDIBLE**_STEVENS


def _postfilter(gain: Tensor, energy: Tensor) -> Tensor:
    """``postfilter.envelope_postfilter``, of band energies, with gradients."""
    warped = gain * torch.sin(math.pi / 2 * gain)
    before = (gain.square() * energy).sum(-1, keepdim=True)
    after = (warped.square() * energy).sum(-1, keepdim=True)
    ratio = (before / after.clamp(min=1e-20)).clamp(1, 1e6)
    beta = float(BETA)
    return warped * ((1 + beta) * ratio / (1 + beta * ratio.square())).sqrt()
