"""The chain with ideal answers: what the signal processing is worth before any network."""

import numpy as np
import pytest

from percepnet import oracle
from percepnet.analysis import HISTORY, AnalysisState, analyse
from percepnet.evaluation import scores
from percepnet.framing import SAMPLE_RATE, Float
from percepnet.mixture import at_ratio
from percepnet.targets import targets

SECONDS = 10


@pytest.fixture(scope="module")
def pesq(noisy: Float, clean: Float) -> dict[str, float]:
    """PESQ-WB of each stage on the shipped recordings, mixed at 10 dB."""
    length = SECONDS * SAMPLE_RATE
    speech, noise = at_ratio(clean[:length], (noisy - clean)[:length], 10)
    versions = oracle.stages(speech, noise)
    return {name: scores(speech, x, SAMPLE_RATE, ["pesq_wb"])["pesq_wb"] for name, x in versions.items()}


def test_six_stages_in_the_order_of_the_design(pesq: dict[str, float]) -> None:
    assert list(pesq) == ["noisy", "ideal bins", "ideal bands", "bands + comb", "with post-filter", "network"]


def test_ideal_bands_are_worth_more_than_a_point(pesq: dict[str, float]) -> None:
    assert pesq["ideal bands"] >= pesq["noisy"] + 1.1


def test_the_comb_at_ideal_strengths_is_worth_half_a_point_more(pesq: dict[str, float]) -> None:
    assert pesq["bands + comb"] >= pesq["ideal bands"] + 0.5


def test_stages_are_aligned_with_the_clean_speech(noisy: Float, clean: Float) -> None:
    """Without noise every ideal stage but the post-filter's returns the speech."""
    voice = clean[: 2 * SAMPLE_RATE]
    versions = oracle.stages(voice, np.zeros_like(voice))
    for name in ("ideal bins", "ideal bands", "bands + comb"):
        np.testing.assert_allclose(versions[name], voice, atol=2e-6)


def test_targets_are_gains_and_strengths(noisy: Float, clean: Float) -> None:
    rows = np.pad(np.stack([noisy, clean])[:, : 4 * SAMPLE_RATE], ((0, 0), (HISTORY, 0)))
    ideal = targets(rows[1:], analyse(rows[:1], AnalysisState.new(1)))
    for value in (ideal.gain, ideal.strength):
        assert value.min() >= 0
        assert value.max() <= 1
    pause = ideal.gain[0, 10:50]  # before the first word
    speech = ideal.gain[0, 80:]
    assert pause.mean() < 0.05 < 0.3 < speech.mean()


def test_the_hiss_of_a_clean_recording_is_no_speech() -> None:
    """Half a second of hiss, then the same 60 dB louder."""
    samples = np.random.default_rng(0).standard_normal((1, HISTORY + SAMPLE_RATE)).astype(np.float32)
    samples *= np.where(np.arange(samples.shape[1]) < HISTORY + SAMPLE_RATE // 2, 1e-4, 0.1)
    samples = samples.astype(np.float32)
    heard = analyse(samples, AnalysisState.new(1))
    hiss, loud = slice(5, 45), slice(55, None)
    background = heard.energy[:, hiss].max(axis=1, keepdims=True)
    assert targets(samples, heard, background).gain[:, hiss].max() < 1e-3  # the loudest of it, by rounding
    assert targets(samples, heard, background).gain[:, loud].min() > 0.99
    assert targets(samples, heard).gain[:, hiss].min() > 0.99


@pytest.mark.parametrize(("clean_shape", "noise_shape"), [((100,), (99,)), ((1, 100), (1, 100))])
def test_unequal_lengths_are_named(clean_shape: tuple[int, ...], noise_shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="equal length"):
        oracle.stages(np.zeros(clean_shape, np.float32), np.zeros(noise_shape, np.float32))
