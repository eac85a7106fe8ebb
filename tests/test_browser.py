"""The page in Debian's Chromium against the real server: what comes back is heard, not assumed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import SAMPLE_RATE, Server, browsing, call, record, serving, write_wav
from conftest import recording
from pesq import pesq
from scipy.signal import butter, correlate, resample_poly, sosfiltfilt, stft

from percepnet import enhance
from percepnet.framing import Float

LEAD_IN = 2.0  # s of silence in the microphone, while the call is being set up
EFFECT_WITHIN = 200.0  # ms from a click to a change that is heard
TWICE_AS_LOUD = 10.0  # dB


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def rumble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 s of a river below 1.5 kHz: all that the call carries above 5 kHz is made by clicks."""
    river = np.tile(recording("noise")[int(6.6 * SAMPLE_RATE) :], 5)[: 30 * SAMPLE_RATE]
    low = sosfiltfilt(butter(8, 1500, fs=SAMPLE_RATE, output="sos"), river)
    low *= 0.08 / np.sqrt(np.mean(low**2))
    return write_wav(tmp_path_factory.mktemp("rumble") / "rumble.wav", low.astype(np.float32))


def test_what_comes_back_is_the_enhanced_voice(
    server: Server, tmp_path: Path, noisy: Float, clean: Float
) -> None:
    spoken = np.concatenate([np.zeros(int(LEAD_IN * SAMPLE_RATE), np.float32), noisy])
    with browsing(server.url, write_wav(tmp_path / "noisy.wav", spoken)) as browser:
        call(browser.page)
        heard = record(browser.page, LEAD_IN + len(noisy) / SAMPLE_RATE).samples
        assert browser.complaints == []

    start = int(np.argmax(correlate(heard, clean, "valid")))
    back = heard[start : start + len(clean)]
    assert wideband_pesq(clean, back) >= wideband_pesq(clean, noisy) + 0.2
    enhanced = enhance(noisy, SAMPLE_RATE)
    assert spectral_distance(back, enhanced) < spectral_distance(back, noisy) / 2


def test_the_switch_takes_effect_at_once_and_without_a_click(server: Server, rumble: Path) -> None:
    with browsing(server.url, rumble) as browser:
        call(browser.page)
        heard = record(browser.page, 11.0, "enabled", [3.0, 4.5, 6.0, 7.5, 9.0])
        assert browser.complaints == []

    level = decibels(heard.samples, 480)
    bursts = decibels(high_passed(heard.samples), 120)
    cuts, settling, clicking = [], [], []
    for n, click in enumerate(heard.clicks):
        at = int(np.searchsorted(heard.arrivals, click))  # frame of 10 ms
        before, after = level[at - 50 : at], level[at + 50 : at + 100]
        change = np.median(after) - np.median(before)
        assert abs(change) > TWICE_AS_LOUD
        assert (change > 0) == (n % 2 == 0)  # the first click turns suppression off
        moved = (level[at : at + 50] - np.median(before)) * np.sign(change) > TWICE_AS_LOUD / 2
        settled = 0 if moved.all() else int(np.flatnonzero(~moved)[-1]) + 1
        settling.append(heard.arrivals[at + settled] - click)

        around = bursts[4 * at : 4 * (at + 30)].max()
        steady = max(bursts[4 * (at - 60) : 4 * at].max(), bursts[4 * (at + 40) : 4 * (at + 100)].max())
        clicking.append(around - steady)

        # The same change as a hard cut is a click for this measure, unless both sides happen to meet.
        cut = np.concatenate(
            [heard.samples[480 * (at - 50) : 480 * at], heard.samples[480 * (at + 50) :][:24000]]
        )
        cuts.append(decibels(high_passed(cut), 120)[190:210].max() - steady)
    # A busy machine is late with one or the other, and loses packets.
    assert np.median(settling) <= EFFECT_WITHIN
    assert np.median(clicking) < 6
    assert np.median(cuts) > 12


def test_the_slider_limits_the_attenuation(server: Server, rumble: Path) -> None:
    with browsing(server.url, rumble) as browser:
        call(browser.page)
        limited = record(browser.page, 4.0, "enabled", [2.0])  # the second half is dry
        browser.page.click("#enabled")
        browser.page.locator("#limit").fill("12")
        assert browser.page.inner_text("#limit-text") == "12 dB"
        after = record(browser.page, 2.0)
        assert browser.complaints == []
    unlimited, dry = (
        power(limited.samples[SAMPLE_RATE : 2 * SAMPLE_RATE]),
        power(limited.samples[-SAMPLE_RATE:]),
    )
    assert dry - unlimited > 20
    assert dry - power(after.samples[-SAMPLE_RATE:]) == pytest.approx(12, abs=2)


def wideband_pesq(reference: Float, degraded: Float) -> float:
    return float(pesq(16000, resample_poly(reference, 1, 3), resample_poly(degraded, 1, 3), "wb"))


def spectral_distance(a: Float, b: Float) -> float:
    """Mean difference in dB between spectra of 40 ms in 48 parts, where either is heard."""
    levels = []
    for x in (a, b):
        _, _, spectra = stft(x, SAMPLE_RATE, nperseg=1920)
        parts = np.abs(spectra[:960]).reshape(48, 20, -1) ** 2
        levels.append(10 * np.log10(parts.mean(axis=1) + 1e-9))
    return float(np.mean(np.abs(levels[0] - levels[1])))


def decibels(x: Float, frame: int) -> Float:
    return 10 * np.log10(np.mean(x[: len(x) // frame * frame].reshape(-1, frame) ** 2, axis=1) + 1e-14)


def power(x: Float) -> float:
    return float(10 * np.log10(np.mean(x**2) + 1e-14))


def high_passed(x: Float) -> Float:
    return np.asarray(sosfiltfilt(butter(8, 5000, "high", fs=SAMPLE_RATE, output="sos"), x))
