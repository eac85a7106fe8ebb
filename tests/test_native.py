"""The compiled signal processing does what that of numpy does, is built where it can be, and is done without else."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from percepnet import native
from percepnet.analysis import HISTORY, Analysis, AnalysisState, analyse
from percepnet.bands import BANDS
from percepnet.framing import HOP, Float
from percepnet.native.build import compile_library
from percepnet.resynthesis import enhance_spectra
from percepnet.targets import targets

SOURCE = Path(native.__file__).parent / "chain.c"
BLOCK = 50  # hops


@pytest.fixture(scope="module")
def voices(noisy: Float, clean: Float) -> Float:
    """``[5, HISTORY + 4 s]``: speech in noise, speech, the same 60 dB lower, noise, and a hum with silence after it."""
    time = np.arange(400 * HOP)
    hum = (0.3 * np.sin(2 * np.pi * 97 * time / 48_000) * (time < 200 * HOP)).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 0.05, 400 * HOP).astype(np.float32)
    rows = [noisy[: 400 * HOP], clean[: 400 * HOP], clean[: 400 * HOP] / 1000, noise, hum]
    return np.pad(np.stack(rows), ((0, 0), (HISTORY, 0)))


def heard(voices: Float, block: int = BLOCK, state: AnalysisState | None = None) -> Analysis:
    """All of them, ``block`` hops at a time."""
    state = state or AnalysisState.new(len(voices))
    hops = (voices.shape[1] - HISTORY) // HOP
    parts = [
        analyse(voices[:, start * HOP : HISTORY + min(start + block, hops) * HOP], state)
        for start in range(0, hops, block)
    ]
    return Analysis(*(np.concatenate(part, axis=1) for part in zip(*parts, strict=True)))


@pytest.fixture(scope="module")
def by_numpy(voices: Float) -> Analysis:
    with native.disabled():
        return heard(voices)


def test_it_is_there() -> None:
    """Tests of what is compiled would otherwise be tests of numpy."""
    assert native.library is not None


def test_it_hears_what_numpy_hears(voices: Float, by_numpy: Analysis) -> None:
    """The same pitch, but for one hop of 1000, where rounding may choose between two that are as good; all the rest."""
    ours = heard(voices)
    same = ours.period == by_numpy.period
    assert same.mean() >= 0.999
    for name in ("spectra", "comb", "energy", "comb_energy"):
        expected = getattr(by_numpy, name)
        scale = np.abs(expected).max(axis=(1, 2), keepdims=True)  # of each voice
        found, expected = getattr(ours, name) / scale, expected / scale
        np.testing.assert_allclose(found[same], expected[same], rtol=1e-4, atol=1e-6)
    for name in ("measured", "coherence", "features"):
        np.testing.assert_allclose(getattr(ours, name)[same], getattr(by_numpy, name)[same], atol=1e-3)


@pytest.mark.parametrize("post", [0.0, 0.4, 1.0])
def test_it_enhances_what_numpy_enhances(by_numpy: Analysis, post: float) -> None:
    rng = np.random.default_rng(2)
    gain, strength = rng.random((2, *by_numpy.energy.shape), np.float32)
    gain[:, ::3] **= 8  # deep ones, too
    shares = np.full(gain.shape[:2], post, np.float32)
    with native.disabled():
        expected = enhance_spectra(by_numpy, gain, strength, shares)
    ours = enhance_spectra(by_numpy, gain, strength, shares)
    scale = np.abs(expected).max(axis=-1, keepdims=True) + 1e-12
    np.testing.assert_allclose(ours / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 7])
def test_how_many_hops_come_at_once_changes_nothing(voices: Float, block: int) -> None:
    for ours, expected in zip(heard(voices, block), heard(voices), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_streams_are_what_they_are_alone(voices: Float) -> None:
    together = heard(voices)
    for row in range(len(voices)):
        for ours, expected in zip(together, heard(voices[row : row + 1]), strict=True):
            np.testing.assert_array_equal(ours[row : row + 1], expected)


def test_a_call_can_change_from_one_to_the_other(voices: Float, by_numpy: Analysis) -> None:
    """Both keep the same state."""
    half = HISTORY + 200 * HOP
    state = AnalysisState.new(len(voices))
    with native.disabled():
        heard(voices[:, :half], state=state)
    rest = heard(voices[:, half - HISTORY :], state=state)
    assert (rest.period == by_numpy.period[:, 200:]).mean() >= 0.999
    np.testing.assert_allclose(rest.energy, by_numpy.energy[:, 200:], rtol=1e-4, atol=1e-6)
    levels = slice(0, BANDS)
    np.testing.assert_allclose(rest.features[..., levels], by_numpy.features[:, 200:, levels], atol=1e-3)


def test_extremes_and_silence_are_as_by_numpy() -> None:
    """Four times full scale, 200 dB below it, an offset, and nothing at all, for 64 streams."""
    time = np.arange(60 * HOP)
    square = np.where(time // 120 % 2, 4.0, -4.0)
    rows = np.stack([square, 1e-10 * square, np.full(len(time), 4.0), 0.0 * square]).astype(np.float32)
    voices = np.pad(np.tile(rows, (16, 1)), ((0, 0), (HISTORY, 0)))
    with native.disabled():
        expected = heard(voices)
    ours = heard(voices)
    np.testing.assert_array_equal(ours.period, expected.period)
    np.testing.assert_allclose(ours.features, expected.features, atol=1e-3)


def test_an_analysis_by_numpy_may_be_a_view(voices: Float) -> None:
    """Which is what numpy's is."""
    with native.disabled():
        frames = analyse(voices, AnalysisState.new(len(voices)))
        gain = np.ones_like(frames.energy)
        expected = enhance_spectra(frames, gain, 0 * gain)
    np.testing.assert_allclose(enhance_spectra(frames, gain, 0 * gain), expected, atol=1e-4)


def test_other_types_and_shapes_are_converted_or_refused(voices: Float) -> None:
    frames = analyse(voices, AnalysisState.new(len(voices)))
    gain = np.ones((1, 1, BANDS))
    expected = enhance_spectra(frames, np.ones_like(frames.energy), np.zeros_like(frames.energy))
    np.testing.assert_array_equal(enhance_spectra(frames, gain, 0 * gain), expected)
    with pytest.raises(ValueError, match="broadcast"):
        enhance_spectra(frames, np.ones_like(frames.energy)[:, :-1], 0 * gain)
    state = AnalysisState.new(len(voices))
    state.whole = np.asfortranarray(state.whole)
    for wrong in (AnalysisState.new(1), state):
        with pytest.raises(ValueError, match="states are float32"):
            analyse(voices, wrong)


def test_the_ideal_strength_of_a_voice_without_noise_is_0() -> None:
    """Though the two coherences that it compares are added up in another order."""
    time = np.arange(400 * HOP) / 48_000
    voice = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 60)) * 0.05
    samples = np.pad(np.float32(voice)[np.newaxis], ((0, 0), (HISTORY, 0)))
    assert targets(samples, analyse(samples, AnalysisState.new(1))).strength.max() < 0.01


def test_one_that_was_built_from_another_source_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(SOURCE.with_suffix(".so"), tmp_path)
    (tmp_path / "chain.c").write_text(SOURCE.read_text(encoding="utf-8") + "/* later */", encoding="utf-8")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert native._load() is None
    assert "another chain.c" in caplog.text


def test_one_that_is_none_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(SOURCE, tmp_path)
    (tmp_path / "chain.so").write_bytes(b"of another machine")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert native._load() is None
    assert "numpy does its work" in caplog.text


def test_one_of_another_layout_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(native, "_LAYOUT", (*native._LAYOUT[:-1], native.STATE + 1))
    assert native._load() is None
    assert "other constants" in caplog.text


def test_the_build_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SOURCE, tmp_path)
    assert compile_library(tmp_path / "chain.c", tmp_path / "chain.so")
    assert {path.name for path in tmp_path.iterdir()} == {"chain.c", "chain.so"}
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert native._load() is not None


@pytest.mark.parametrize(
    ("compiler", "path"),
    [("false", None), ("true", None), ("no-such-compiler", None), ("cc '", None), ("", "")],
)
def test_without_a_compiler_that_works_nothing_is_built_and_nothing_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, path: str | None
) -> None:
    monkeypatch.setenv("CC", compiler)
    if path is not None:
        monkeypatch.setenv("PATH", path)
    (tmp_path / "chain.so").write_bytes(b"of before")
    assert not compile_library(SOURCE, tmp_path / "chain.so")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"of before"]
