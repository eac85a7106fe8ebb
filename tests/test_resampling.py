from pathlib import Path

import av
import numpy as np
import pytest

from percepnet.resampling import Converter, resample
from server.frames import FrameReader, FrameWriter

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


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux tells them")
def test_no_conversion_starts_threads() -> None:
    """FFmpeg's graphs have one for each core unless they are told not to: 30 for a voice on 16 cores."""
    before = len(list(Path("/proc/self/task").iterdir()))
    kept = [Converter(16_000, 48_000), Converter(48_000, 8_000)]
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 160), np.int16), format="s16", layout="mono")
    frame.sample_rate = 8_000
    kept += [reader := FrameReader(), writer := FrameWriter(frame)]
    for n in range(4):
        frame.pts = 160 * n
        for packet in reader.push(frame):
            assert writer.frame(packet).sample_rate == 8_000
    assert len(list(Path("/proc/self/task").iterdir())) == before
    assert kept


def test_equal_rates_change_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((3, 100)).astype(np.float32)
    assert resample(x, 16_000, 16_000) is x


@pytest.mark.parametrize("rate", [0, 7_999, 192_001])
def test_rates_out_of_range_are_named(rate: int) -> None:
    with pytest.raises(ValueError, match=rf"{rate} Hz; allowed are 8000 to 192000"):
        resample(np.zeros((1, 10), np.float32), rate, 48_000)
