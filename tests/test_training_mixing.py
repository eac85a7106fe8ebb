"""What mixtures are made of: codecs, hiss, noise that begins, rooms."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.framing import HOP, SAMPLE_RATE, Float
from percepnet.training import shards
from percepnet.training.codec import RATES, through_opus
from percepnet.training.mixing import Mixture, _changed
from percepnet.training.rooms import EARLY, room_response


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
