"""Periods of synthetic voices whose pitch is known."""

import numpy as np
import pytest

from percepnet import bands, framing, pitch
from percepnet.framing import HOP, SAMPLE_RATE, Float
from percepnet.pitch import MAX_PERIOD, MIN_PERIOD, PitchState

SECONDS = 1.5


def voice(hz: float | Float, seconds: float = SECONDS) -> Float:
    """Harmonics up to 6 kHz with a falling envelope and two formants; ``hz`` may be an array of each sample."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    frequency = np.broadcast_to(hz, time.shape)
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    out = np.zeros_like(time)
    for k in range(1, int(6000 / frequency.max()) + 1):
        f = k * frequency.mean()
        out += (1 / k + np.exp(-(((f - 700) / 200) ** 2)) + np.exp(-(((f - 1800) / 300) ** 2))) * np.sin(
            k * phase + k
        )
    return (0.1 * out / out.std()).astype(np.float32)


def tracked(samples: Float) -> tuple[Float, Float]:
    """Periods and correlations ``[hops]`` after the first 200 ms; entry i belongs to 10 ms at 200 ms + i hops."""
    hops = samples.shape[0] // HOP - 1
    spectra = framing.spectrum(framing.frames(samples[None, : (hops + 1) * HOP], hops))
    period, correlation = pitch.track(spectra, bands.power(spectra), PitchState.new(1))
    return period[0, 20:].astype(np.float32), correlation[0, 20:]


@pytest.mark.parametrize("hz", [70, 90, 123.4, 160, 220, 317, 400, 480])
def test_steady_voice_is_found_to_a_sample_and_a_half(hz: float) -> None:
    """The period, or for a voice that repeats exactly a multiple of it, which serves the comb filter as well."""
    period, correlation = tracked(voice(hz))
    periods = np.rint(period * hz / SAMPLE_RATE)
    assert np.abs(period - periods * SAMPLE_RATE / hz).max() <= 1.5
    assert periods.min() >= 1
    assert correlation.min() > 0.8


@pytest.mark.parametrize("lag", [25.5, 40.5, 60.5, 80.5])
def test_a_period_between_two_lags_is_not_taken_for_the_whole_lag_of_twice_of_it(lag: float) -> None:
    period, _ = tracked(voice(SAMPLE_RATE / (pitch.DECIMATION * lag)))
    assert np.abs(period - pitch.DECIMATION * lag).max() <= 1.5


@pytest.mark.parametrize("hz", [90, 160, 300])
def test_voice_in_white_noise_at_5_db_is_found_nearly_always(hz: float) -> None:
    clean = voice(hz)
    noise = np.random.default_rng(0).standard_normal(len(clean)) * clean.std() * 10 ** (-5 / 20)
    period, _ = tracked((clean + noise).astype(np.float32))
    assert np.mean(np.abs(period * hz / SAMPLE_RATE - 1) < 0.02) >= 0.98


def test_glide_is_followed() -> None:
    seconds = 1.5
    hz = np.geomspace(120, 240, int(seconds * SAMPLE_RATE))  # an octave in 1.5 s
    period, _ = tracked(voice(hz, seconds))
    # the frame decided at hop i ended LOOKAHEAD hops before; its centre lies one hop earlier
    centre = (20 + np.arange(len(period)) + 1 - framing.LOOKAHEAD) * HOP
    assert np.abs(period * hz[centre] / SAMPLE_RATE - 1).max() < 0.03


def test_periods_stay_in_range_on_noise_and_silence() -> None:
    rng = np.random.default_rng(0)
    for samples in (rng.standard_normal(SAMPLE_RATE).astype(np.float32), np.zeros(SAMPLE_RATE, np.float32)):
        period, correlation = tracked(samples)
        assert period.min() >= MIN_PERIOD
        assert period.max() <= MAX_PERIOD
        assert np.isfinite(correlation).all()


def test_level_does_not_matter() -> None:
    samples = voice(140) + 0.03 * np.random.default_rng(0).standard_normal(int(SECONDS * SAMPLE_RATE)).astype(
        np.float32
    )
    loud, _ = tracked(samples)
    quiet, _ = tracked(samples * np.float32(0.01))
    assert np.mean(loud == quiet) > 0.98


def test_streams_do_not_see_each_other() -> None:
    a, b = voice(110), voice(330)
    both = np.stack([a, b])
    hops = both.shape[1] // HOP - 1
    spectra = framing.spectrum(framing.frames(both[:, : (hops + 1) * HOP], hops))
    together, _ = pitch.track(spectra, bands.power(spectra), PitchState.new(2))
    alone, _ = pitch.track(spectra[1:], bands.power(spectra[1:]), PitchState.new(1))
    np.testing.assert_array_equal(together[1:], alone)
