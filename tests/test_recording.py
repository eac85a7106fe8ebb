from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from percepnet import Enhancer, enhance
from percepnet.cli.audio_files import read
from percepnet.framing import Float
from percepnet.recording import enhance_blocks
from percepnet.resampling import resample

RECORDINGS = Path(__file__).parent / "recordings"
RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]


@pytest.fixture(scope="module")
def noisy() -> Float:
    samples, rate = read(RECORDINGS / "noisy.flac")
    assert rate == 48_000
    return samples[0, 24_000 : 24_000 + 3 * 48_000]


def lag(late: Float, early: Float) -> float:
    """Float by which ``late`` is behind ``early``, to a fraction: the vertex of the correlation's peak."""
    size = 2 * len(early)
    correlation = np.fft.irfft(np.fft.rfft(late, size) * np.fft.rfft(early, size).conj())
    peak = int(correlation.argmax())
    left, top, right = (correlation[(peak + step) % size] for step in (-1, 0, 1))
    return (peak + size // 2) % size - size // 2 + (left - right) / (left - 2 * top + right) / 2


@pytest.mark.parametrize("rate", RATES)
def test_stays_aligned_and_in_shape(noisy: Float, rate: int) -> None:
    x = resample(noisy[None], 48_000, rate)[0][:-7]
    y = enhance(x, rate)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert abs(lag(y, x)) < 0.25
    assert y.std() < 0.98 * x.std()


@pytest.mark.parametrize("rate", RATES)
def test_without_attenuation_the_input_returns(noisy: Float, rate: int) -> None:
    x = resample(noisy[None], 48_000, rate)[0]
    y = enhance(x, rate, attenuation_limit_db=0)
    if rate == 48_000:
        assert np.abs(y - x).max() < 1e-6
    # Content in the top 5 % of the band is rolled off, so compare what lies below it.
    spectrum = np.abs(np.fft.rfft((y - x) * np.hanning(len(x))))[
        : int(0.94 * min(1, 48_000 / rate) * len(x) / 2)
    ]
    reference = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    assert np.sqrt(np.mean(spectrum**2) / np.mean(reference**2)) < 1e-3


@pytest.mark.parametrize("samples", [0, 1, 2, 479, 480, 481, 1_439, 1_441, 4_801])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
def test_short_and_odd_lengths(samples: int, rate: int) -> None:
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (2, samples))
    y = enhance(x, rate)
    assert y.shape == x.shape
    assert y.dtype == np.float64
    assert np.isfinite(y).all()


def test_block_borders_leave_no_trace(noisy: Float) -> None:
    length = 2 * 48_000 - 1_440  # together with the latency exactly two blocks; one more needs a third
    for samples in (length - 1, length, length + 1):
        x = noisy[:samples]
        assert np.abs(enhance(x, 48_000, attenuation_limit_db=0) - x).max() < 1e-6


def test_channels_are_enhanced_by_themselves(noisy: Float) -> None:
    other = np.roll(noisy, 5_000) * np.float32(0.3)
    both = enhance(np.stack([noisy, other]), 48_000)
    np.testing.assert_allclose(both[0], enhance(noisy, 48_000), atol=1e-5)
    np.testing.assert_allclose(both[1], enhance(other, 48_000), atol=1e-5)


def test_no_channels_are_no_work() -> None:
    assert enhance(np.zeros((0, 100), np.float32), 48_000).shape == (0, 100)


def test_not_finite_samples_count_as_silence(noisy: Float) -> None:
    broken = noisy.copy()
    broken[::5_000] = np.nan
    broken[1::5_000] = np.inf
    silenced = np.where(np.isfinite(broken), broken, np.float32(0))
    for rate in (44_100, 48_000):
        np.testing.assert_array_equal(enhance(broken, rate), enhance(silenced, rate))


def test_what_float32_cannot_hold_counts_as_silence(noisy: Float) -> None:
    broken = noisy.astype(np.float64)
    broken[::5_000] = 1e300
    np.testing.assert_array_equal(enhance(broken, 44_100), enhance(np.where(broken > 1, 0, broken), 44_100))


def test_progress_ends_at_one(noisy: Float) -> None:
    shares: list[float] = []
    enhance(noisy, 48_000, progress=shares.append)
    assert shares == sorted(shares)
    assert len(shares) > 2
    assert shares[-1] == 1.0


@pytest.mark.parametrize("wrong", [np.zeros(480, np.int16), np.zeros(480, np.float16), [0.0, 1.0]])
def test_wrong_types_are_named(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"x is (int16|float16|list); allowed are .*float32 or float64"):
        enhance(wrong, 48_000)  # type: ignore[type-var]


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 480\); allowed are \[samples\] and \[channels, samples\]"):
        enhance(np.zeros((1, 2, 480), np.float32), 48_000)


@pytest.mark.parametrize("rate", [7_999, 192_001, -48_000])
def test_wrong_rates_are_named(rate: int) -> None:
    with pytest.raises(ValueError, match=rf"{rate} Hz; allowed are 8000 to 192000 Hz"):
        enhance(np.zeros(480, np.float32), rate)
    with pytest.raises(TypeError, match=r"48000\.5 .*whole numbers"):
        enhance(np.zeros(480, np.float32), 48_000.5)  # type: ignore[arg-type]


def test_an_array_that_is_turned_the_other_way_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(4800, 2\); .* at most 64 channels"):
        enhance(np.zeros((4800, 2), np.float32), 48_000)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("longest", [700, 100_000])
def test_how_a_recording_is_cut_into_blocks_changes_nothing(noisy: Float, rate: int, longest: int) -> None:
    x = np.stack([noisy[: 3 * rate + 11], noisy[-3 * rate - 11 :]])
    cuts = np.sort(np.random.default_rng(0).integers(0, x.shape[1], 2 * x.shape[1] // longest))
    parts = list(enhance_blocks(np.split(x, cuts, axis=1), rate, Enhancer(streams=2)))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), enhance(x, rate), atol=1e-6)


def test_a_long_recording_is_never_in_memory_whole() -> None:
    taken = 0

    def endless() -> Iterator[Float]:
        nonlocal taken
        while True:
            taken += 5_000
            yield np.zeros((1, 5_000), np.float32)

    given = 0
    for part in enhance_blocks(endless(), 44_100, Enhancer()):
        given += part.shape[1]
        assert taken - given < 3 * 44_100
        if given > 60 * 44_100:
            break
