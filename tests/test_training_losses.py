"""What the loss is made of: each of its parts counts, and compares what belongs to the same hop."""

import pytest
import torch

from percepnet.bands import BANDS
from percepnet.framing import LOOKAHEAD
from percepnet.training.losses import Loss, band_loss, loudness_loss, total_loss

HOPS = 4 + LOOKAHEAD


def full(value: float) -> torch.Tensor:
    """``[1, HOPS, BANDS]`` of it."""
    return torch.full((1, HOPS, BANDS), float(value))


SILENT = torch.zeros(1, HOPS, 1)  # nobody speaks


@pytest.mark.parametrize("loudness", [0.0, 0.3])
def test_the_loss_is_the_sum_of_gains_strengths_and_loudness(loudness: float) -> None:
    kind = Loss(loudness=loudness, added=1)
    gain, strength, levels = full(0.4), full(0.2), full(0)
    ideal = full(0.8), full(0.9), full(1), SILENT
    gains, strengths = band_loss(gain, strength, *ideal, kind)
    loud = loudness_loss(gain, ideal[0], levels, ideal[2], kind.added)
    assert min(gains, strengths, loud) > 0.01
    total = total_loss(gain, strength, ideal, levels, kind)
    assert float(total) == pytest.approx(float((1 - loudness) * gains + strengths + loudness * loud))


def test_an_error_of_a_gain_weighs_its_square_and_ten_times_its_fourth_power() -> None:
    for error in (0.1, 0.5):
        found, _ = band_loss(full(0.5), full(0), full(0.5 + error), full(0), full(1), SILENT, Loss(gamma=1))
        assert float(found) == pytest.approx(error**2 + 10 * error**4, rel=1e-4)


def test_strengths_count_as_far_as_a_band_is_heard() -> None:
    def loss(strength: float, *, gain: float = 1, weight: float = 1) -> float:
        return float(
            band_loss(full(1), full(strength), full(gain), full(0.5), full(weight), SILENT, Loss())[1]
        )

    assert loss(0.5) == 0
    assert min(loss(0.1), loss(0.9)) > 0.01
    assert loss(0.9, gain=0.25) == pytest.approx(0.25 * loss(0.9))
    assert loss(0.9, gain=0) == loss(0.9, weight=0) == 0


@pytest.mark.parametrize("loud", range(4))
def test_a_gain_is_for_the_level_that_was_told_before_it(loud: int) -> None:
    """What is loud in one hop of the levels is lost by the gain, and left out by the weight, ``LOOKAHEAD`` later."""
    levels = full(-3)  # 60 dB lower: next to nothing
    levels[:, loud] = 0

    def loss(gain: torch.Tensor, ideal: torch.Tensor, weight: torch.Tensor) -> float:
        return float(loudness_loss(gain, ideal, levels, weight))

    everything = loss(full(0.5), full(1), full(1))
    assert everything > 0.01
    for hop in range(HOPS):
        lowered, only = full(1), full(0)
        lowered[:, hop], only[:, hop] = 0.5, 1
        share = everything if hop == loud + LOOKAHEAD else 0
        assert loss(lowered, full(1), full(1)) == pytest.approx(share, abs=1e-3 * everything)
        too_loud = loss(full(1), lowered, full(1))
        assert too_loud > 0.01 if share else too_loud < 1e-4
        # the mean over one hop of four
        assert loss(full(0.5), full(1), only) == pytest.approx(4 * share, abs=4e-3 * everything)
