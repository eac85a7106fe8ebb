"""The loss on gains and strengths: how far they are from the ideal ones (P20 section 4.2), and how loud that is."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad

from percepnet.bands import CENTRES_HZ, WIDTHS
from percepnet.framing import LOOKAHEAD
from percepnet.mixture import WORD, WORD_PAUSE
from percepnet.postfilter import BETA

_EPS: Final = 1e-3  # the power has no gradient at 0
_STEVENS: Final = 0.23  # loudness of a band from its energy (Zwicker; ITU-T P.862)
_INAUDIBLE: Final = 10**-4.5  # of the mean band at the level reference: what is masked or below the threshold

_ACTIVE: Final = 1e-6  # of the mean band at the level reference: a sequence with less speech has none
_THRESHOLD: Final = 10**-7.1  # of active speech, all bands together: what is not heard even alone
_PAUSE: Final = 10**-3.1  # likewise: a frame below this is not brought to the level of the other
_RAISED: Final = 5.0  # likewise: the most
_DEAF: Final = 0.25  # part of the loudness that a difference may have without being heard

_RISE: Final = 3  # hops before a word, which may be in it already


def _bark(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Critical-band rate (Zwicker and Terhardt 1980)."""
    return 13 * np.arctan(0.00076 * hertz) + 3.5 * np.arctan((hertz / 7500) ** 2)


_EDGES = np.concatenate([CENTRES_HZ[:1], (CENTRES_HZ[1:] + CENTRES_HZ[:-1]) / 2, CENTRES_HZ[-1:]])
_SHARES: Final[NDArray[np.float64]] = np.diff(_bark(_EDGES)) / np.ptp(_bark(_EDGES))  # of all critical bands


@dataclass(frozen=True)
class Loss:
    """What an error weighs."""

    gamma: float = 0.7  # compression: an error at a low gain is heard as well as one at a high gain
    speech: float = 0.0  # what a hop with speech weighs more, in hops without
    over: float = 0.0  # what a gain that is too low weighs more in such a hop, likewise
    loudness: float = 0.8  # share of the error of loudness, from 0 to 1; that of the gains has the rest
    added: float = 0.0  # what weighs more there: loudness that should not be
    distortion: float = 0.0  # what the distortion of speech weighs beside all this
    onset: float = (
        0.0  # what a word's beginning weighs more where it is clear, and no teacher's answer counts
    )


def total_loss(
    gain: Tensor,
    strength: Tensor,
    ideal: tuple[Tensor, Tensor, Tensor, Tensor],
    levels: Tensor,
    kind: Loss,
    *,
    taught: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What training lowers. ``ideal`` as ``batches.split`` has it, ``levels [B, T, 34]``: the band levels that the
    network was told; ``taught``: a teacher's gains and strengths, in whose gains the post-filter has its part, too.
    The distortion is that against the ideal gains all the same: so a pupil may learn what its teacher does not know.
    """
    *answers, weight, speaking = ideal
    wanted = answers[0]  # behind the post-filter
    if taught is not None:
        wanted, answers = _postfiltered(taught[0], levels), list(taught)
    if kind.onset:
        onset = word_beginnings(speaking) * _clear(ideal[0], weight)
        weight = weight * (1 + kind.onset * onset)
        wanted = wanted.lerp(ideal[0], onset)
        answers = [answer.lerp(best, onset) for answer, best in zip(answers, ideal[:2], strict=True)]
    gain_loss, strength_loss = band_loss(gain, strength, answers[0], answers[1], weight, speaking, kind)
    loss = (1 - kind.loudness) * gain_loss + strength_loss
    if kind.loudness:
        loss = loss + kind.loudness * loudness_loss(gain, wanted, levels, weight, kind.added)
    if kind.distortion:
        loss = loss + kind.distortion * distortion_loss(gain, ideal[0], levels, weight, speaking)
    return loss


def word_beginnings(speaking: Tensor) -> Tensor:
    """1 in the first 100 ms of words after a pause, as ``bars.word_changes`` knows them, and in the 30 ms before; else
    0. Of ``speaking [B, T, 1]``; the pause must be in it."""
    spoken = speaking.transpose(1, 2)
    before = max_pool1d(pad(spoken[..., :-1], (WORD_PAUSE, 0), value=1.0), WORD_PAUSE, 1)
    starts = spoken * (1 - before)
    return max_pool1d(pad(starts, (WORD - 1, _RISE)), WORD + _RISE, 1).transpose(1, 2)


def _clear(ideal_gain: Tensor, weight: Tensor) -> Tensor:
    """How far a hop is free of noise, ``[B, T, 1]``: 1 without any, 0.4 where the mean of the ideal gains is 0.8.

    In noise, to take what begins for a word costs more than it brings: the pauses are louder.
    """
    mean = (weight * ideal_gain).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp(min=1e-3)
    return mean**4


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
    energy = _energy(levels)
    gain, ideal_gain, weight = (x[:, LOOKAHEAD:] for x in (gain, ideal_gain, weight))
    difference = _loudness(_postfilter(gain, energy).square() * energy) - _loudness(
        ideal_gain.square() * energy
    )
    heard = weight * (1 + added * (difference > 0))
    return (heard * difference.square()).sum() / weight.sum().clamp(min=1)


def distortion_loss(
    gain: Tensor, ideal_gain: Tensor, levels: Tensor, weight: Tensor, speaking: Tensor
) -> Tensor:
    """How distorted the speech of a sequence sounds behind the post-filter, mean over those with any; arguments are
    ``[B, T, 34]``, but ``speaking [B, T, 1]``.

    Unlike ``loudness_loss`` it follows single mixtures' PESQ: the level of each frame is taken out, for what
    is heard is a wrong timbre; errors count far below the loudest band; and a sequence counts by the root of its
    mean square, so that hard mixtures do not outweigh the others. PESQ's raw score loses about 40 times as much.
    Source: the symmetric disturbance of ITU-T P.862, as a loss Martin-Doñas et al. 2018 (PMSQE).
    """
    energy = _energy(levels)
    gain, ideal_gain, weight, speaking = (x[:, LOOKAHEAD:] for x in (gain, ideal_gain, weight, speaking))
    wanted, got = ideal_gain.square() * energy, _postfilter(gain, energy).square() * energy
    spoken_hops = speaking.sum(1, keepdim=True).clamp(min=1)
    active = (wanted.sum(-1, keepdim=True) * speaking).sum(1, keepdim=True) / spoken_hops
    spoken = active[:, 0, 0] > _ACTIVE
    scale = 1 / active.clamp(min=_ACTIVE)
    wanted, got, weight = (_frames(x) for x in (wanted * scale, got * scale, weight))
    level = (wanted.sum(-1, keepdim=True) + _PAUSE) / (got.sum(-1, keepdim=True) + _PAUSE)
    wanted, got = (_loudness(x, _THRESHOLD) for x in (wanted, got * level.clamp(max=_RAISED)))
    heard = (wanted - got).abs() - _DEAF * torch.minimum(wanted, got)
    frames = (weight * levels.new_tensor(_SHARES) * heard.clamp(min=0).square()).sum(-1)
    return ((frames.mean(1) + 1e-9).sqrt() * spoken).sum() / spoken.sum().clamp(min=1)


def _postfiltered(gain: Tensor, levels: Tensor) -> Tensor:
    """What the post-filter makes of gains ``[B, T, 34]`` of a network; the first, of unknown levels, stay."""
    energy = _energy(levels)
    return torch.cat([gain[:, :LOOKAHEAD], _postfilter(gain[:, LOOKAHEAD:], energy)], 1)


def _energy(levels: Tensor) -> Tensor:
    """Of bands ``[B, T − LOOKAHEAD, 34]``, in units of the mean band at the level reference."""
    return 10 ** (2 * levels[:, : levels.shape[1] - LOOKAHEAD]) * levels.new_tensor(WIDTHS)


def _frames(x: Tensor) -> Tensor:
    """Means over 40 ms, 20 ms apart, of hops ``[B, T, 34]``."""
    return avg_pool1d(x.transpose(1, 2), 3, 2).transpose(1, 2)


def _loudness(energy: Tensor, threshold: float = _INAUDIBLE) -> Tensor:
    return (energy + threshold) ** _STEVENS - threshold**_STEVENS


def _postfilter(gain: Tensor, energy: Tensor) -> Tensor:
    """``postfilter.envelope_postfilter``, of band energies, with gradients."""
    warped = gain * torch.sin(math.pi / 2 * gain)
    before = (gain.square() * energy).sum(-1, keepdim=True)
    after = (warped.square() * energy).sum(-1, keepdim=True)
    ratio = (before / after.clamp(min=1e-20)).clamp(1, 1e6)
    beta = float(BETA)
    return warped * ((1 + beta) * ratio / (1 + beta * ratio.square())).sqrt()
