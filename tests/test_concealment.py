"""Concealment: what goes on in a hole is like what was before it, fades in time, and joins without a click."""

import numpy as np
import pytest
from numpy.typing import NDArray

from percepnet.concealment import SEAM, Concealer
from percepnet.framing import Float

PACKET = 960  # samples, 20 ms at 48 kHz
EDGE = 48  # samples, 1 ms on either side of an edge


def concealed(x: Float, holes: NDArray[np.bool_], rate: int = 48_000) -> Float:
    """``x`` in packets of 20 ms, those in ``holes`` concealed."""
    concealer, size = Concealer(rate), rate // 50
    parts = [
        concealer.conceal(size) if hole else concealer.heard(x[n * size : (n + 1) * size])
        for n, hole in enumerate(holes)
    ]
    return np.concatenate(parts)


def level_db(x: Float) -> float:
    return float(10 * np.log10(np.mean(np.square(x)) + 1e-12))


def bends(x: Float, holes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each hole, how sharply the signal bends at its edges, relative to the most it does near by."""
    bend = np.abs(np.diff(x.astype(float), n=2))
    result = []
    for n in np.flatnonzero(holes):
        edges = [n * PACKET, (n + 1) * PACKET]
        at = max(bend[edge - EDGE : edge + EDGE].max() for edge in edges)
        near = bend[edges[0] - 3 * PACKET : edges[0] - EDGE], bend[edges[1] + EDGE : edges[1] + 3 * PACKET]
        result.append(at / max(part.max() for part in near))
    return np.array(result)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("pitch", [80, 143, 310])
def test_a_voice_goes_on(pitch: int, rate: int) -> None:
    time = np.arange(rate) / rate
    voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6)).astype(np.float32)
    holes = np.zeros(50, bool)
    holes[30] = True
    hole = slice(30 * rate // 50, 31 * rate // 50)
    assert np.corrcoef(concealed(voice, holes, rate)[hole], voice[hole])[0, 1] > 0.9


def test_noise_goes_on_as_noise_of_the_same_spectrum() -> None:
    random = np.random.default_rng(1)
    hiss = np.convolve(random.standard_normal(96_000), [1, -0.9], "same").astype(np.float32)
    concealer, spectra = Concealer(48_000), []
    for n in range(60):
        part = concealer.heard(hiss[n * PACKET : (n + 1) * PACKET])
        if n > 20:
            spectra.append(np.abs(np.fft.rfft([part, concealer.conceal(PACKET)])) ** 2)
    heard, filled = np.mean(spectra, axis=0).reshape(2, -1)[:, 1:].reshape(2, 20, 24).mean(2)
    difference = 10 * np.log10(filled / heard)
    assert np.abs(difference).max() < 4  # of random spectra, each from 10 ms
    assert abs(difference.mean()) < 1


def test_a_long_hole_ends_in_noise_at_the_floor() -> None:
    random = np.random.default_rng(2)
    time = np.arange(96_000) / 48_000
    noise = 0.001 * random.standard_normal(96_000)
    voice = np.where(time % 0.5 < 0.3, 0.3 * np.sin(2 * np.pi * 150 * time), 0)
    concealer = Concealer(48_000)
    # to the midst of the voice
    for part in np.split((voice + noise).astype(np.float32)[: 48_000 + 7680], 58):
        concealer.heard(part)
    hole = concealer.conceal(48_000)
    assert level_db(hole[:PACKET]) == pytest.approx(level_db(voice[:PACKET]), abs=2)
    assert level_db(hole[2400:2880]) > -40  # at 50 to 60 ms the voice has not gone yet
    assert level_db(hole[3840:]) == pytest.approx(-60, abs=2)  # at 80 ms it has


def test_the_floor_is_that_of_the_last_seconds() -> None:
    noise = np.random.default_rng(4).standard_normal(6 * 48_000).astype(np.float32)
    noise[:48_000] *= 1e-4  # a second at −80 dB, then five at −40
    noise[48_000:] *= 1e-2
    concealer = Concealer(48_000)
    for part in np.split(noise, 300):
        concealer.heard(part)
    assert level_db(concealer.conceal(48_000)[24_000:]) == pytest.approx(-40, abs=2)


def test_a_voice_goes_on_in_the_second_of_two_holes_with_10_ms_between() -> None:
    voice = np.zeros(48_000, np.float32)
    for harmonic in range(1, 6):
        voice += np.sin(2 * np.pi * 80 * harmonic * np.arange(48_000) / 48_000) / harmonic
    concealer = Concealer(48_000)
    for part in np.split(voice[:28_800], 30):
        concealer.heard(part)
    concealer.conceal(PACKET)
    concealer.heard(voice[28_800 + PACKET :][:480])
    hole = voice[28_800 + PACKET + 480 :][:PACKET]
    assert np.corrcoef(concealer.conceal(PACKET), hole)[0, 1] > 0.9


def test_a_pause_begins_with_a_short_fade(noisy: Float) -> None:
    concealer = Concealer(48_000)
    for part in np.split(np.resize(noisy, 96 * PACKET), 96):
        concealer.heard(0.001 * part)
    concealer.heard(noisy[:PACKET])
    pause = concealer.conceal(4800, pause=True)
    assert level_db(pause[round(SEAM * 48_000) :]) < level_db(noisy) - 40


def test_silence_stays_silence() -> None:
    concealer = Concealer(48_000)
    assert not concealer.heard(np.zeros(48_000, np.float32)).any()
    assert not concealer.conceal(4800).any()
    assert not Concealer(48_000).conceal(4800).any()


@pytest.mark.parametrize("part", [1, 7, 120, 960])
def test_a_hole_is_the_same_in_parts_of_any_length(noisy: Float, part: int) -> None:
    whole, parts = Concealer(48_000), Concealer(48_000)
    whole.heard(noisy[: 20 * PACKET])
    parts.heard(noisy[: 20 * PACKET])
    hole = np.concatenate([parts.conceal(min(part, 3000 - start)) for start in range(0, 3000, part)])
    assert np.allclose(hole, whole.conceal(3000), atol=1e-6)


def test_reset_is_as_new(noisy: Float) -> None:
    concealer = Concealer(48_000)
    concealer.heard(noisy)
    concealer.conceal(100)
    concealer.reset()
    part = noisy[: 20 * PACKET]
    new = Concealer(48_000)
    assert np.array_equal(concealer.heard(part), new.heard(part))
    assert np.array_equal(concealer.conceal(10 * PACKET), new.conceal(10 * PACKET))  # down to the floor


@pytest.mark.parametrize("length", [1, 100, 120, 240, 960, 5760])
def test_audio_after_a_hole_is_itself_from_the_seam_on(noisy: Float, length: int) -> None:
    concealer = Concealer(48_000)
    concealer.heard(noisy[: 20 * PACKET])
    concealer.conceal(PACKET)
    after = noisy[21 * PACKET :]
    heard = np.concatenate([concealer.heard(after[n : n + length]) for n in range(0, 12_000, length)])
    seam = round(SEAM * 48_000)
    assert np.array_equal(heard[seam:], after[seam : len(heard)])


def test_no_click_at_either_edge(clean: Float) -> None:
    holes = np.zeros(len(clean) // PACKET, bool)
    holes[5:-5:6] = True
    holes &= [level_db(clean[n * PACKET :][:PACKET]) > -45 for n in range(len(holes))]
    assert np.sum(holes) > 40
    silenced = clean.copy()
    for n in np.flatnonzero(holes):
        silenced[n * PACKET : (n + 1) * PACKET] = 0
    assert np.mean(bends(silenced, holes) > 2) > 0.5  # or this measure hears no click
    assert np.mean(bends(concealed(clean, holes), holes) > 2) < 0.05
