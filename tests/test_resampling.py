import numpy as np
import pytest

from percepnet.resampling import resample

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 44_101, 96_000, 192_000]


def tone(frequency: float, rate: int, samples: int) -> np.ndarray:
    return np.cos(2 * np.pi * frequency * np.arange(samples) / rate + 0.4).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_a_tone_keeps_its_place_and_level(rate: int, share: float) -> None:
    frequency = share * min(rate, 48_000) / 2
    found = resample(tone(frequency, rate, rate + 1)[None], rate, 48_000)[0]
    expected = tone(frequency, 48_000, len(found))
    middle = slice(len(found) // 10, -len(found) // 10)  # away from the tone's hard ends
    assert np.abs(found - expected)[middle].max() < 1e-3


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    found = resample(tone(9_000, 48_000, 48_000)[None], 48_000, 16_000)[0]
    assert np.abs(found[1_000:-1_000]).max() < 1e-4


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [0, 1, 2, 7, 1_001, 70_001])
def test_lengths_are_exact(rate: int, samples: int) -> None:
    there = resample(np.ones((2, samples), np.float32), rate, 48_000)
    assert there.shape == (2, -(-samples * 48_000 // rate))
    back = resample(there, 48_000, rate)
    assert back.shape[1] >= samples
    if samples > 1_000:
        assert np.abs(back[:, 300 : samples - 300] - 1).max() < 1e-3


def test_equal_rates_change_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    assert resample(x, 16_000, 16_000) is x


@pytest.mark.parametrize("rate", [0, 7_999, 192_001])
def test_rates_out_of_range_are_named(rate: int) -> None:
    with pytest.raises(ValueError, match=rf"{rate} Hz; allowed are 8000 to 192000"):
        resample(np.zeros((1, 10), np.float32), rate, 48_000)
