import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from percepnet import evaluation
from percepnet.cli.audio_files import read
from percepnet.evaluation import DNSMOS_WINDOW, METRICS, dnsmos, means, pesq_wb, scores, si_sdr
from percepnet.framing import Float
from percepnet.resampling import resample

RECORDINGS = Path(__file__).parent / "recordings"


def recording(name: str) -> Float:
    samples, _ = read(RECORDINGS / name)
    return samples[0, : 10 * 48_000]


@pytest.fixture(scope="module")
def clean() -> Float:
    return recording("clean.flac")


@pytest.fixture(scope="module")
def noise() -> Float:
    return recording("noise.flac")


def orthogonal(noise: Float, clean: Float) -> Float:
    """``noise`` without what it has in common with ``clean``, at the same power."""
    centred = clean.astype(np.float64) - clean.mean()
    rest = noise - noise.mean()
    rest = rest - (rest @ centred) / (centred @ centred) * centred
    return (rest * np.linalg.norm(centred) / np.linalg.norm(rest)).astype(np.float32)


def test_equal_signals_score_best(clean: Float) -> None:
    found = scores(clean, clean, 48_000)
    assert list(found) == list(METRICS)
    assert found["pesq_wb"] == pytest.approx(4.644, abs=1e-3)  # MOS-LQO of raw score 4.5 in P.862.2
    assert found["stoi"] == pytest.approx(1, abs=1e-6)
    assert found["estoi"] == pytest.approx(1, abs=1e-6)
    assert found["si_sdr"] == 100


def test_si_sdr_is_the_ratio_to_orthogonal_noise(clean: Float, noise: Float) -> None:
    rest = orthogonal(noise, clean)
    for ratio in (-10, 0, 10, 30):
        assert si_sdr(clean, clean + rest * 10 ** (-ratio / 20)) == pytest.approx(ratio, abs=0.01)


def test_si_sdr_ignores_scale_and_offset(clean: Float, noise: Float) -> None:
    mixed = clean + np.float32(0.3) * noise
    assert si_sdr(clean, np.float32(-7) * mixed + np.float32(0.1)) == pytest.approx(
        si_sdr(clean, mixed), abs=1e-3
    )
    assert si_sdr(clean, np.float32(0.25) * clean) == 100


def test_every_score_falls_with_the_noise(clean: Float, noise: Float) -> None:
    rows = [scores(clean, clean + noise * np.float32(10 ** (-gain / 20)), 48_000) for gain in (30, 12, -3)]
    for metric in METRICS:
        values = [row[metric] for row in rows]
        assert values == sorted(values, reverse=True), metric
        assert values[0] - values[2] > 0.2, metric


def test_the_scores_of_a_known_recording_are_what_they_were(clean: Float) -> None:
    """None may change, nor take the place of another, unnoticed: reports compare them over the years."""
    known = {
        "pesq_wb": 1.115,
        "stoi": 0.763,
        "estoi": 0.513,
        "si_sdr": 5.300,
        "dnsmos_sig": 2.719,
        "dnsmos_bak": 1.546,
        "dnsmos_ovrl": 1.584,
    }
    assert scores(clean, recording("noisy.flac"), 48_000) == pytest.approx(known, abs=0.01)


def test_ratings_stay_on_their_scale_for_any_length(clean: Float) -> None:
    narrow = resample(clean[None], 48_000, 16_000)[0]
    for samples in (1, 1_000, 144_160, len(narrow)):
        ratings = dnsmos(narrow[:samples])
        assert list(ratings) == ["dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl"]
        assert all(1 <= value <= 5 for value in ratings.values()), ratings


def test_long_recordings_are_scored_in_pieces(clean: Float, noise: Float) -> None:
    # 90 bursts of speech with pauses: more utterances than the tables of the reference code hold.
    burst = resample(clean[None, 48_000 : 48_000 + 19_200], 48_000, 16_000)[0]
    speech = np.tile(np.concatenate([burst, np.zeros(4_800, np.float32)]), 90)
    hiss = np.resize(resample(noise[None], 48_000, 16_000)[0], len(speech)) * np.float32(0.05)
    assert pesq_wb(speech, speech) == pytest.approx(4.644, abs=1e-3)
    assert 1 < pesq_wb(speech, speech + hiss) < 4.6


def test_a_long_recording_scores_the_mean_of_its_pieces(
    clean: Float, noise: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "PESQ_SECONDS", 3)
    pair = np.stack([clean, clean + noise])[:, : 6 * 48_000]
    reference, signal = resample(pair, 48_000, 16_000)
    signal[: len(signal) // 2] = reference[: len(signal) // 2]
    pieces = [pesq_wb(*piece) for piece in np.split(np.stack([reference, signal]), 2, axis=1)]
    assert pieces[0] > pieces[1] + 1
    assert pesq_wb(reference, signal) == pytest.approx(sum(pieces) / 2, abs=1e-6)


def test_ratings_are_means_over_all_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that answers with the first sample of its window, and 15 s in which each second has its own."""

    def answers(_: None, inputs: dict[str, Float]) -> list[list[list[float]]]:
        (window,) = inputs["input_1"]
        assert len(window) == DNSMOS_WINDOW
        return [[[float(window[0])] * 3]]

    monkeypatch.setattr(evaluation, "_dnsmos_session", lambda: SimpleNamespace(run=answers))
    seconds = np.repeat(np.arange(15, dtype=np.float32) / 15, 16_000)
    for name, rating in dnsmos(seconds).items():
        wanted = [np.polyval(evaluation.DNSMOS_FITS[name], second / 15) for second in range(6)]
        assert rating == pytest.approx(np.mean(wanted), abs=1e-6)


def test_what_cannot_be_scored_is_nan(clean: Float) -> None:
    silence = np.zeros(48_000, np.float32)
    found = scores(silence, silence, 48_000, ["pesq_wb", "stoi", "estoi", "si_sdr"])
    assert all(math.isnan(value) for value in found.values()), found
    short = scores(clean[48_000:48_100], clean[48_000:48_100], 48_000, ["pesq_wb", "stoi"])
    assert all(math.isnan(value) for value in short.values()), short


def test_who_takes_all_away_has_the_lowest_scores(clean: Float) -> None:
    found = scores(clean, np.zeros_like(clean), 48_000, ["pesq_wb", "stoi", "si_sdr"])
    assert (found["pesq_wb"], found["si_sdr"]) == (1.0, -100.0)
    assert found["stoi"] == pytest.approx(0, abs=0.05)


def test_the_rate_hardly_matters(clean: Float, noise: Float) -> None:
    pair = np.stack([clean, clean + np.float32(0.5) * noise])
    wide = scores(*pair, 48_000, ["pesq_wb", "stoi"])
    narrow = scores(*resample(pair, 48_000, 16_000), 16_000, ["pesq_wb", "stoi"])
    assert narrow == pytest.approx(wide, abs=1e-3)


def test_means_leave_out_what_could_not_be_scored() -> None:
    rows = [{"a": 1.0, "b": math.nan}, {"a": 2.0, "b": 5.0}, {"a": 6.0, "b": math.nan}]
    assert means(rows) == {"a": 3.0, "b": 5.0}
    assert math.isnan(means([{"a": math.nan}])["a"])


def test_errors_name_value_and_choice(clean: Float) -> None:
    with pytest.raises(ValueError, match=r"\['mos'\]; allowed are pesq_wb, stoi"):
        scores(clean, clean, 48_000, ["mos"])
    with pytest.raises(ValueError, match=r"\(480000,\).*\(10,\)"):
        scores(clean, clean[:10], 48_000)
    with pytest.raises(ValueError, match="4000 Hz; allowed are 8000"):
        scores(clean, clean, 4_000)
    with pytest.raises(ValueError, match="finite"):
        scores(clean, clean * np.float32(np.nan), 48_000)
    with pytest.raises(ValueError, match="empty"):
        dnsmos(clean[:0])
