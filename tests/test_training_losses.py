"""What the loss is made of: each of its parts counts, and compares what belongs to the same hop."""

from dataclasses import replace

import pytest
import torch

from percepnet.bands import BANDS
from percepnet.framing import LOOKAHEAD
from percepnet.training.losses import (
    Loss,
    band_loss,
    distortion_loss,
    loudness_loss,
    total_loss,
    word_beginnings,
)

HOPS = 4 + LOOKAHEAD


def full(value: float) -> torch.Tensor:
    """``[1, HOPS, BANDS]`` of it."""
    return torch.full((1, HOPS, BANDS), float(value))


SILENT = torch.zeros(1, HOPS, 1)  # nobody speaks


SPOKEN = 1 - SILENT


@pytest.mark.parametrize(("loudness", "distortion"), [(0.0, 0.0), (0.3, 0.0), (0.3, 5.0)])
def test_the_loss_is_the_sum_of_its_parts(loudness: float, distortion: float) -> None:
    kind = Loss(loudness=loudness, added=1, distortion=distortion)
    gain, strength, levels = full(0.4), full(0.2), full(0)
    gain[..., ::2] = 0.1
    ideal = full(0.8), full(0.9), full(1), SPOKEN
    gains, strengths = band_loss(gain, strength, *ideal, kind)
    loud = loudness_loss(gain, ideal[0], levels, ideal[2], kind.added)
    distorted = distortion_loss(gain, ideal[0], levels, *ideal[2:])
    assert min(gains, strengths, loud, distorted) > 0.01
    total = total_loss(gain, strength, ideal, levels, kind)
    expected = (1 - loudness) * gains + strengths + loudness * loud + distortion * distorted
    assert float(total) == pytest.approx(float(expected))


def test_who_answers_as_its_teacher_has_nothing_to_learn() -> None:
    """Though both go through the post-filter, and an ideal answer does not."""
    gain, strength, levels = full(0.4), full(0.2), full(0)
    gain[..., ::2] = 0.1
    ideal = full(1), full(0), full(1), SPOKEN
    assert total_loss(gain, strength, ideal, levels, Loss(), taught=(gain, strength)) < 1e-4
    assert total_loss(gain, strength, (gain, strength, *ideal[2:]), levels, Loss()) > 0.01


def test_but_for_what_distorts_speech_against_the_ideal() -> None:
    gain, strength, levels = full(0.4), full(0.2), full(0)
    gain[..., ::2] = 0.1
    ideal = full(1), full(0), full(1), SPOKEN
    taught = total_loss(gain, strength, ideal, levels, Loss(distortion=3), taught=(gain, strength))
    distorted = distortion_loss(gain, ideal[0], levels, *ideal[2:])
    assert float(distorted) > 0.01
    assert float(taught) == pytest.approx(3 * float(distorted), abs=1e-4)


def spoken(*hops: int, length: int = 60) -> torch.Tensor:
    """Who speaks in the hops from the first to before the second, the third to before the fourth …"""
    speaking = torch.zeros(1, length, 1)
    for start, end in zip(hops[::2], hops[1::2], strict=True):
        speaking[:, start:end] = 1
    return speaking


@pytest.mark.parametrize(
    ("speaking", "begins"),
    [
        (spoken(20, 60), [20]),
        (spoken(15, 16, 40, 41), [15, 40]),
        (spoken(20, 30, 44, 60), [20]),  # 140 ms are no pause
        (spoken(20, 30, 45, 60), [20, 45]),
        (spoken(14, 30), []),  # nor is it known that the first 140 ms were after one
        (spoken(0, 60), []),
        (spoken(58, 60), [58]),
    ],
)
def test_a_word_begins_after_a_pause(speaking: torch.Tensor, begins: list[int]) -> None:
    expected = [any(-3 <= hop - start < 10 for start in begins) for hop in range(60)]
    assert word_beginnings(speaking)[0, :, 0].tolist() == expected


class TestOnset:
    """A word that begins, whose ideal gains are 1 as no noise is there, and a teacher that lets less of it pass."""

    SPEAKING = spoken(20, 60)
    ONES = torch.ones(1, 60, BANDS)
    ONSET = word_beginnings(SPEAKING) * ONES
    IDEAL, TAUGHT = (ONES, 0.2 * ONES), (0.3 * ONES, 0.9 * ONES)

    def loss(
        self, gain: torch.Tensor, strength: torch.Tensor, *, ideal: float = 1, **changed: float
    ) -> float:
        best = ideal * self.ONES, self.IDEAL[1], self.ONES, self.SPEAKING
        kind = replace(Loss(onset=4), **changed)
        return float(total_loss(gain, strength, best, 0 * self.ONES, kind, taught=self.TAUGHT))

    def answers(self) -> list[torch.Tensor]:
        """As the teacher but at the beginning."""
        return [told.lerp(best, self.ONSET) for told, best in zip(self.TAUGHT, self.IDEAL, strict=True)]

    def test_there_no_teacher_is_followed(self) -> None:
        answers = self.answers()
        assert self.loss(*answers) < 1e-4
        assert self.loss(*self.TAUGHT) > 0.01
        assert self.loss(*self.TAUGHT, onset=0) < 1e-4 < self.loss(*answers, onset=0)

    def test_in_noise_he_is(self) -> None:
        """Where the ideal gain is 0.5, the sixteenth part of the way to it is asked for."""
        assert self.loss(*self.TAUGHT, ideal=0.5) < 0.1 * self.loss(*self.answers(), ideal=0.5)

    def test_it_weighs_more(self) -> None:
        gain, strength = self.answers()
        gain = gain - 0.2 * self.ONSET
        found = {n: self.loss(gain, strength, onset=n, loudness=0) for n in (4, 9)}
        shares = {n: 13 * (1 + n) / (47 + 13 * (1 + n)) for n in found}  # of 60 hops
        assert found[9] / found[4] == pytest.approx(shares[9] / shares[4])


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


class TestDistortion:
    """Of a voice in every other band, behind noise as loud in all: ideal gains 0 and 1."""

    @staticmethod
    def loss(gain: torch.Tensor, ideal: torch.Tensor, **changed: torch.Tensor) -> float:
        told = {"levels": full(0), "weight": full(1), "speaking": SPOKEN} | changed
        return float(distortion_loss(gain, ideal, **told))

    @pytest.fixture
    def ideal(self) -> torch.Tensor:
        gain = full(1)
        gain[..., ::2] = 0
        return gain

    def test_none_where_all_is_as_it_should_be(self, ideal: torch.Tensor) -> None:
        assert self.loss(ideal, ideal) < 1e-4
        assert self.loss(full(1), full(1)) < 1e-4

    def test_noise_between_the_bands_of_the_voice(self, ideal: torch.Tensor) -> None:
        """36 dB lower it is heard still, and less than when it is loud."""
        found = [self.loss(ideal.clamp(min=floor), ideal) for floor in (0.1, 0.3, 0.6, 1.0)]
        assert found == sorted(found)
        assert found[0] > 0.01

    def test_bands_that_are_missing(self, ideal: torch.Tensor) -> None:
        missing = ideal.clone()
        missing[..., 9::4] = 0
        assert self.loss(missing, ideal) > 0.05

    def test_a_frame_that_is_lower_in_all_bands_is_none(self, ideal: torch.Tensor) -> None:
        """By up to 7 dB, half of it by the post-filter; 20 dB are."""
        assert self.loss(0.7 * ideal, ideal) < 1e-4
        assert self.loss(0.1 * ideal, ideal) > 0.01

    def test_the_level_of_the_voice_does_not_matter(self, ideal: torch.Tensor) -> None:
        gain = ideal.clamp(min=0.2)
        assert self.loss(gain, ideal, levels=full(-1)) == pytest.approx(self.loss(gain, ideal), rel=1e-4)

    def test_bands_without_weight_and_sequences_without_speech_are_left_out(
        self, ideal: torch.Tensor
    ) -> None:
        rows = (torch.cat([x, x]) for x in (full(1), ideal, full(0), full(1)))
        gain, wanted, levels, weight = rows
        everybody = self.loss(full(1), ideal)
        some = torch.cat([SPOKEN, SILENT])
        assert self.loss(gain, wanted, levels=levels, weight=weight, speaking=some) == pytest.approx(
            everybody
        )
        assert self.loss(full(1), ideal, speaking=SILENT) == 0
        assert self.loss(full(1), ideal, weight=full(0)) < 1e-4

    def test_its_gradient_is_finite_everywhere(self, ideal: torch.Tensor) -> None:
        for start in (ideal, full(0), full(1)):
            gain = start.clone().requires_grad_()
            for speaking in (SPOKEN, SILENT):
                (slope,) = torch.autograd.grad(
                    distortion_loss(gain, ideal, full(0), full(1), speaking), [gain], allow_unused=True
                )
                assert slope is None or torch.isfinite(slope).all()
