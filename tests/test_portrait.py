"""Pictures of clips: what is drawn of the network belongs to the sound above it."""

import numpy as np
import pytest

from percepnet.bands import BANDS
from percepnet.enhancer import Enhancer
from percepnet.framing import HOP, SAMPLE_RATE, Float
from percepnet.portrait import _heard, portrait


def test_gains_stay_where_they_belong_when_the_clip_sleeps(
    noisy: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("percepnet.enhancer._SLEEPY", 100)  # hops
    silent = np.zeros(3 * SAMPLE_RATE, np.float32)
    clip = np.concatenate([noisy[:SAMPLE_RATE], silent, noisy[SAMPLE_RATE : 2 * SAMPLE_RATE]])
    enhanced, gain, strength = _heard(clip, Enhancer())
    assert enhanced.shape == clip.shape
    assert gain.shape == strength.shape == (BANDS, len(clip) // HOP)
    # dry, from a second after it fell silent until it wakes
    np.testing.assert_array_equal(gain[:, 210:390], 1)
    np.testing.assert_array_equal(strength[:, 210:390], 0)
    _, before, _ = _heard(clip[:SAMPLE_RATE], Enhancer())
    np.testing.assert_allclose(gain[:, :95], before[:, :95], atol=1e-6)
    assert gain[:, 400:].min() < 0.5


@pytest.mark.parametrize("limit", [0, 10, None])
def test_it_is_a_picture_with_any_settings(noisy: Float, limit: float | None) -> None:
    clip = noisy[:SAMPLE_RATE]
    assert portrait(clip, clip, "a test", Enhancer(attenuation_limit_db=limit)).startswith(b"\xff\xd8")
