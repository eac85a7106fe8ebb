"""What mixtures are made of: codecs, hiss, noise that begins, rooms."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.framing import HOP, SAMPLE_RATE, Float
from percepnet.mixture import active_level
from percepnet.training import mixing, shards
from percepnet.training.codec import RATES, through_opus
from percepnet.training.corpus import Recording
from percepnet.training.mixing import Mixer, Mixture, _changed
from percepnet.training.rooms import EARLY, room_response

LENGTH = 5 * SAMPLE_RATE  # samples of each mixture: more than the longest pause
BANDWIDTH = 14_000  # Hz, of the speech in them


class Drawn(NamedTuple):
    """A mixture, and what was done to it."""

    mixture: Mixture
    cutoffs: list[float]  # Hz, of what made it narrow
    muted: list[Float]  # gains


def mixer(bandwidth: float) -> Mixer:
    """Of one recording of speech and one of noise, both hiss, up to ``bandwidth`` Hz in the speech."""
    hiss = np.random.default_rng(0).standard_normal((2, 4 * SAMPLE_RATE)).astype(np.float32)
    speech = Recording("speech.wav", "speech", "train", bandwidth, length=hiss.shape[1])
    noise = Recording("noise.wav", "noise", "train", SAMPLE_RATE / 2, length=hiss.shape[1])
    spectrum = np.fft.rfft(hiss[0])
    spectrum[np.fft.rfftfreq(hiss.shape[1], 1 / SAMPLE_RATE) > bandwidth] = 0
    sound = {"speech": np.fft.irfft(spectrum, hiss.shape[1]).astype(np.float32), "noise": hiss[1]}

    def crop(recording: Recording, length: int, rng: np.random.Generator) -> Float:
        return np.resize(sound[recording.kind], length)

    return Mixer(SimpleNamespace(speech=[speech], noise=[noise], crop=crop), LENGTH, seed=0)  # type: ignore[arg-type]


def density(samples: Float, low: float, high: float) -> float:
    """Mean power of a bin from ``low`` to ``high`` Hz."""
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    return float(np.square(np.abs(np.fft.rfft(samples)))[(hz >= low) & (hz < high)].mean())


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    """Mixtures without rooms and codecs, which take long, and gain that moves, which spreads spectra."""
    cutoffs: list[float] = []
    gains: list[Float] = []
    low_pass, muted, source, found = mixing._low_pass, mixing._muted, mixer(BANDWIDTH), []

    def noted_low_pass(samples: Float, cutoff: float) -> Float:
        cutoffs.append(cutoff)
        return low_pass(samples, cutoff)

    def noted_muted(length: int, rng: np.random.Generator) -> Float:
        gains.append(muted(length, rng))
        return gains[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "room_response", lambda rng: np.ones(1, np.float32))
        patch.setattr(mixing, "through_opus", lambda samples, rate: samples)
        patch.setattr(mixing, "_gain_steps", lambda length, rng: np.ones(length))
        patch.setattr(mixing, "_low_pass", noted_low_pass)
        patch.setattr(mixing, "_muted", noted_muted)
        for _ in range(40):
            cutoffs.clear()
            gains.clear()
            found.append(Drawn(source.draw(), list(cutoffs), list(gains)))
    return found


def test_speech_is_some_7_db_above_the_noise_in_most_mixtures(drawn: list[Drawn]) -> None:
    ratios = []
    for clean, noise in ((m.clean, m.uncoded - m.clean) for m, _, _ in drawn):
        if clean.any() and noise.any():
            ratios.append(20 * np.log10(active_level(clean) / np.sqrt(np.mean(np.square(noise)))))
    assert len(ratios) > 25
    assert 4 < np.median(ratios) < 12


def test_speech_ends_at_its_bandwidth_at_whatever_speed(drawn: list[Drawn]) -> None:
    found = set()
    for mixture, cutoffs, muted in drawn:
        edge = mixture.bandwidth
        if not mixture.clean.any():
            assert edge == SAMPLE_RATE / 2  # silence is evidence of every band
        elif not cutoffs and not muted:
            found.add(round(edge))
            # what begins or pauses at once has some of every frequency, and the equaliser raises or lowers by 6 dB
            below = density(mixture.clean, 0.7 * edge, 0.95 * edge)
            assert below > 20 * density(mixture.clean, 1.1 * edge, SAMPLE_RATE / 2)
    assert min(found) < BANDWIDTH < max(found)


def test_what_is_wanted_is_as_narrow_and_as_muted_as_the_mixture(drawn: list[Drawn]) -> None:
    narrow = muted = 0
    for mixture, cutoffs, gains in drawn:
        if not mixture.clean.any():
            continue
        if gains:
            muted += 1
            assert not mixture.clean[gains[0] == 0].any()
        elif cutoffs and cutoffs[0] < 0.8 * mixture.bandwidth:
            narrow += 1
            inside = density(mixture.clean, 200, 0.9 * cutoffs[0])
            assert density(mixture.clean, 1.15 * cutoffs[0], SAMPLE_RATE / 2) < 1e-6 * inside
    assert muted > 3
    assert narrow > 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("length", [960 * 20, 960 * 20 + 700])  # the encoder looks 312 samples ahead
def test_opus_is_on_time_and_worse_at_lower_rates(clean: Float, rate: int, length: int) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 1000 / SAMPLE_RATE * np.arange(length), dtype=np.float32)
    clicks = np.zeros(length, np.float32)
    clicks[5000::5000] = 0.5
    heard = through_opus(clicks, rate)
    assert heard.shape == (length,)
    peaks = np.abs(heard[2500 : length // 5000 * 5000 - 2500]).reshape(-1, 5000).argmax(1)
    np.testing.assert_allclose(peaks, 2500, atol=24)  # half a millisecond
    late = tone[:-12] - through_opus(tone, rate)[12:], tone - through_opus(tone, rate)
    assert np.std(late[1]) < 0.3 * np.std(late[0])
    speech = clean[: 2 * SAMPLE_RATE]
    wrong = [
        np.abs(np.abs(np.fft.rfft(through_opus(speech, r))) - np.abs(np.fft.rfft(speech))).sum()
        for r in RATES
    ]
    assert wrong[0] > wrong[1] > 0


def test_hiss_of_a_recording_is_found_in_its_pauses_only() -> None:
    """Of three: speech with hiss and pauses, sound without pauses, silence."""
    rng = np.random.default_rng(0)
    hiss = 1e-5 * rng.uniform(0.5, 1.5, (1, 400, BANDS)).astype(np.float32)
    speech = np.zeros((1, 400, BANDS), np.float32)
    speech[:, 100:300] = rng.exponential(size=(1, 200, BANDS))
    energy = np.concatenate([hiss + speech, hiss + 1, 0 * hiss])
    threshold = shards._speech_threshold(energy)
    found = shards._background(energy, threshold)
    assert found.shape == (3, 1, BANDS)
    assert_allclose(found[0, 0], 2 * np.percentile(hiss[0, np.r_[:95, 305:400]], 30, axis=0), rtol=1e-4)
    assert not found[1:].any()


def test_what_a_codec_does_to_a_clean_voice_is_not_to_be_taken_off(
    clean: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "STREAMS", 1)
    monkeypatch.setattr(shards, "HOPS", 200)
    speech = clean[: 200 * HOP]
    coded = through_opus(speech, 16_000)
    gains = []
    for before in (speech, coded):
        mixer = SimpleNamespace(draw=lambda before=before: Mixture(coded, before, speech, 7000))
        shard = shards.make_shard(mixer)[0].astype(np.float32)  # type: ignore[arg-type]
        levels, heard = shard[:, :BANDS], shard[:, FEATURES + 2 * BANDS : -1] > 0.9
        gains.append(shard[:, FEATURES : FEATURES + BANDS][heard & (levels > 0)].mean())
    assert gains[0] > 0.99 > 0.98 > gains[1]


def test_noise_begins_ends_or_becomes_another_in_some_mixtures() -> None:
    rng, noise = np.random.default_rng(0), np.ones(5 * SAMPLE_RATE, np.float32)
    ends = np.array([changed[[0, -1]] for changed in (_changed(noise, rng) for _ in range(60))])
    begins, stops = ends[:, 0] == 0, ends[:, 1] == 0
    assert begins.sum() > stops.sum() > 3
    assert (~begins & ~stops).sum() > 5


def test_room_responses_begin_with_the_direct_sound_and_decay() -> None:
    for seed in range(5):
        response = room_response(np.random.default_rng(seed))
        assert abs(response[0]) == pytest.approx(1)
        energy = np.square(np.abs(np.fft.rfft(response)))  # a bin is 2 Hz wide
        assert energy[1:15].mean() < 0.1 * energy[50:200].mean()  # below 30 Hz, from 100 to 400 Hz
        late = np.square(response[EARLY:]).sum()
        assert np.square(response[len(response) // 2 :]).sum() < 0.1 * (late + 1)
