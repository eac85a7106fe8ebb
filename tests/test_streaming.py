"""A voice in chunks of any size, at any rate: what plug-ins rely on."""

from collections.abc import Iterator
from itertools import count, cycle

import numpy as np
import pytest

from percepnet import StreamingEnhancer, enhance
from percepnet.framing import HOP, SEAM, Float
from percepnet.resampling import StreamingResampler, resample
from percepnet.streaming import RETRY_HOPS, WARM_UP_HOPS

RATES = [8_000, 16_000, 24_000, 44_100, 48_000]
SECONDS = 2

pytestmark = pytest.mark.usefixtures("processing")


@pytest.fixture(params=RATES)
def rate(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def at(rate: int, noisy: Float) -> Float:
    """The recording from 1 s on, at that rate."""
    return resample(noisy[np.newaxis, 48_000 : 48_000 * (1 + SECONDS)], 48_000, rate)[0]


def in_chunks(voice: StreamingEnhancer, x: Float, sizes: Iterator[int]) -> Float:
    parts, start = [], 0
    while start < len(x):
        size = next(sizes)
        parts.append(voice.process(x[start : start + size]))
        assert len(parts[-1]) == min(size, len(x) - start)
        start += size
    return np.concatenate(parts)


def test_how_the_voice_is_cut_changes_nothing(rate: int, noisy: Float) -> None:
    x = at(rate, noisy)
    rng = np.random.default_rng(0)
    sizes = [1, 7, rate // 50, rate // 100, 5_000, *rng.integers(0, rate // 10, 40).tolist()]
    whole = StreamingEnhancer(rate).process(x)
    columns = np.stack([x, -x], axis=1)  # as sound cards give them
    cut = in_chunks(StreamingEnhancer(rate), columns[:, 0], cycle(sizes))
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    assert np.abs(whole).max() > 0.01


def test_it_is_what_the_library_makes_of_the_recording_late_by_the_stated_delay(
    rate: int, noisy: Float
) -> None:
    x = at(rate, noisy)
    voice = StreamingEnhancer(rate)
    late = voice.latency_samples
    out = voice.process(np.concatenate([x, np.zeros(late, np.float32)]))
    assert np.abs(out[: late // 2]).max() < 1e-3
    enhanced = enhance(x, rate)

    def difference(shift: int) -> float:
        settled = slice(rate // 4, len(x) - 10)
        return float(np.std(out[late + shift :][settled] - enhanced[settled]) / np.std(enhanced[settled]))

    # Not equal: the conversion is late by some samples of 48 kHz, so steps of 10 ms begin elsewhere in the voice.
    assert difference(0) < 0.2 < np.std(enhanced - x) / np.std(enhanced)
    assert difference(0) == min(map(difference, range(-3, 4)))


def test_the_delay_is_constant_to_a_fraction_of_a_sample(rate: int) -> None:
    time = np.arange(rate, dtype=np.float64) / rate
    voice = StreamingEnhancer(rate)
    voice.set(enabled=False)
    voice.reset()
    out = in_chunks(voice, np.sin(2 * np.pi * 1_000 * time).astype(np.float32), cycle([441, 1, 160]))
    steady = time > 0.2
    wanted = np.sin(2 * np.pi * 1_000 * (time - float(voice.latency)))
    np.testing.assert_allclose(out[steady], wanted[steady], atol=0.01)
    assert 0.039 < voice.latency < 0.057
    assert voice.latency_samples == round(voice.latency * rate)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 37_800, 44_101, 48_000, 96_000])
def test_no_chunk_is_ever_short(rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single samples are the worst there is."""
    voice = StreamingEnhancer(rate)
    monkeypatch.setattr(voice, "_enhance", lambda x: x)
    assert all(len(voice.process(np.zeros(1, np.float32))) == 1 for _ in range(3_000))


@pytest.mark.parametrize(("source", "target"), [(8_000, 48_000), (48_000, 44_100), (44_101, 48_000)])
def test_a_streaming_resampler_has_its_answers_in_time(source: int, target: int) -> None:
    resampler = StreamingResampler(source, target)
    time, results = np.arange(4_000), []
    for n, sample in enumerate(np.sin(2 * np.pi * 440 * time / source).astype(np.float32), 1):
        results.append(resampler.push(np.array([sample], np.float32)))
        assert sum(map(len, results)) >= n * target // source if n % 100 == 0 else True
    out = np.concatenate(results)
    wanted = np.sin(2 * np.pi * 440 * (np.arange(len(out)) / target - float(resampler.delay)))
    np.testing.assert_allclose(out[1_000:], wanted[1_000:], atol=0.01)


def test_reset_is_as_new_and_streams_do_not_hear_each_other(noisy: Float) -> None:
    x, y = at(16_000, noisy), at(16_000, noisy[48_000:])
    one, two = StreamingEnhancer(16_000), StreamingEnhancer(16_000)
    alone = StreamingEnhancer(16_000).process(x)
    together = np.concatenate(
        [(one.process(a), two.process(b))[0] for a, b in zip(np.split(x, 20), np.split(y, 20), strict=True)]
    )
    np.testing.assert_allclose(together, alone, atol=1e-5)
    one.reset()
    np.testing.assert_allclose(one.process(x), alone, atol=1e-5)


def test_controls_turn_without_a_click_or_a_jump(noisy: Float) -> None:
    x = at(48_000, noisy)
    voice = StreamingEnhancer(48_000)
    half = len(x) // 2
    voice.process(x[:half])
    voice.set(enabled=False)
    out = voice.process(x[half:])
    settled = slice(4_800, None)
    dry = x[half - voice.latency_samples : -voice.latency_samples]
    np.testing.assert_allclose(out[settled], dry[settled], atol=1e-4)


def test_16_bit_samples_are_the_same_voice(noisy: Float) -> None:
    x = (at(16_000, noisy) * 32768).round().astype(np.int16)
    pcm = StreamingEnhancer(16_000).process_pcm(x)
    wanted = StreamingEnhancer(16_000).process(x.astype(np.float32) / 32768)
    assert np.abs(pcm - wanted * 32768).max() <= 0.5
    loud = StreamingEnhancer(16_000, attenuation_limit_db=0).process_pcm(
        np.resize([32767, -32768], 3_200).astype(np.int16)
    )
    assert loud.dtype == np.int16


def fails_in(monkeypatch: pytest.MonkeyPatch, voice: StreamingEnhancer, fails: set[int]) -> Iterator[int]:
    """Let these calls of its enhancer raise, the first is 1; returns what has the number of the next."""
    process, calls = voice._enhancer.process, count(1)

    def sometimes(x: Float) -> Float:
        if next(calls) in fails:
            raise RuntimeError("a test")
        return process(x)

    monkeypatch.setattr(voice._enhancer, "process", sometimes)
    return calls


def test_a_fault_is_dry_audio_as_late_and_enhancement_comes_back(
    noisy: Float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x = np.resize(noisy, 9 * 48_000)
    packets = np.split(x, 9 * 50)
    voice, well = StreamingEnhancer(48_000), StreamingEnhancer(48_000)
    wanted = well.process(x)
    fails_in(monkeypatch, voice, {51})
    out = np.concatenate([voice.process(packet) for packet in packets])
    late = voice.latency_samples
    fault, back = 48_000 + HOP + SEAM, 48_000 + (RETRY_HOPS + 20) * HOP
    np.testing.assert_allclose(out[:48_000], wanted[:48_000], atol=1e-5)
    np.testing.assert_array_equal(out[fault : back - 40 * HOP], x[fault - late : back - 40 * HOP - late])
    steps = np.abs(np.diff(out[fault : back + 48_000])).max()
    assert steps <= np.abs(np.diff(x)).max()  # no click on the way back
    start = 48_000 + (2 + RETRY_HOPS - WARM_UP_HOPS) * HOP
    fresh = StreamingEnhancer(48_000).process(x[start:][:48_000])
    settled = (1 + WARM_UP_HOPS) * HOP
    np.testing.assert_allclose(out[start:][settled:48_000], fresh[settled:], atol=1e-5)
    part = slice(len(x) - 48_000, None)
    assert np.std(out[part] - wanted[part]) < 0.2 * np.std(wanted[part])
    assert len(caplog.records) == 1


def test_nothing_is_missing_when_a_voice_comes_back(noisy: Float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a new state the first 30 ms are silence: these are not what comes after the dry audio."""
    x = noisy[48_000 : 48_000 + (RETRY_HOPS + 100) * HOP]
    voice = StreamingEnhancer(48_000, attenuation_limit_db=0)  # dry, but through the enhancer
    calls = fails_in(monkeypatch, voice, {21})
    out = np.concatenate([voice.process(packet) for packet in np.split(x, len(x) // (2 * HOP))])
    late = voice.latency_samples
    assert next(calls) > 21
    assert not voice._dry_hops
    np.testing.assert_allclose(out[late:], x[:-late], atol=1e-5)


@pytest.mark.parametrize(
    ("fails", "hops", "comes_back"),
    [
        ({41}, 2, True),
        ({41, 43}, 2, False),  # again in the warm-up, which is hop by hop
        ({41, 47}, 3, False),  # again in the first hop after it, within a packet
    ],
)
def test_a_fault_does_not_click(
    fails: set[int], hops: int, comes_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 7.2 s, that is: too few for a second return."""
    # At its peak where hops begin: there it would step.
    tone = 0.5 * np.cos(2 * np.pi * 100 / 48_000 * np.arange(720 * HOP, dtype=np.float32))
    voice = StreamingEnhancer(48_000)
    monkeypatch.setattr(voice._enhancer, "process", lambda x: 0 * x)  # far from dry
    calls = fails_in(monkeypatch, voice, fails)
    heard = np.concatenate([voice.process(packet) for packet in np.split(tone, 720 // hops)])
    assert next(calls) > max(fails)
    assert np.abs(heard).max() > 0.4
    assert (np.abs(heard[-50 * HOP :]).max() > 0.4) == (not comes_back)
    assert np.abs(np.diff(heard)).max() < 2 * np.abs(np.diff(tone)).max()


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (np.zeros((2, 480), np.float32), ValueError, r"\(2, 480\); allowed: \[samples\] of one channel"),
        (np.zeros(480), TypeError, "float64; allowed: numpy float32"),
        ([0.0], TypeError, "list; allowed"),
    ],
)
def test_errors_name_what_is_allowed(x: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        StreamingEnhancer(16_000).process(x)  # type: ignore[arg-type]


def test_a_rate_that_nothing_has_is_refused() -> None:
    with pytest.raises(ValueError, match="7999 Hz; allowed"):
        StreamingEnhancer(7_999)


def test_what_is_no_number_does_not_spread() -> None:
    voice = StreamingEnhancer(16_000)
    x = np.zeros(1_600, np.float32)
    x[100] = np.nan
    assert np.isfinite(voice.process(x)).all()
