"""The compiled signal processing does what that of numpy does, is built where it can be, and is done without else."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from percepnet import native
from percepnet.analysis import HISTORY, Analysis, AnalysisState, analyse
from percepnet.bands import BANDS
from percepnet.framing import HOP, Float
from percepnet.native.build import compiled
from percepnet.resynthesis import enhance_spectra

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
    with native.switched_off():
        return heard(voices)


def test_it_is_there() -> None:
    """Tests of what is compiled would otherwise be tests of numpy."""
    assert native.library is not None


def test_it_hears_what_numpy_hears(voices: Float, by_numpy: Analysis) -> None:
    """The same pitch in 999 of 1000 hops, where rounding may choose between two that are as good; then all the rest."""
    ours = heard(voices)
    same = ours.period == by_numpy.period
    assert same.mean() >= 0.999
    for name in ("spectra", "comb", "energy", "comb_energy"):
        expected = getattr(by_numpy, name)[same]
        np.testing.assert_allclose(
            getattr(ours, name)[same], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )
    for name in ("measured", "coherence", "features"):
        np.testing.assert_allclose(getattr(ours, name)[same], getattr(by_numpy, name)[same], atol=1e-3)


@pytest.mark.parametrize("post", [0.0, 0.4, 1.0])
def test_it_enhances_what_numpy_enhances(by_numpy: Analysis, post: float) -> None:
    rng = np.random.default_rng(2)
    gain, strength = rng.random((2, *by_numpy.energy.shape), np.float32)
    gain[:, ::3] **= 8  # deep ones, too
    shares = np.full(gain.shape[:2], post, np.float32)
    with native.switched_off():
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
    with native.switched_off():
        heard(voices[:, :half], state=state)
    rest = heard(voices[:, half - HISTORY :], state=state)
    assert (rest.period == by_numpy.period[:, 200:]).mean() >= 0.999
    np.testing.assert_allclose(rest.energy, by_numpy.energy[:, 200:], rtol=1e-4, atol=1e-6)
    levels = slice(0, BANDS)
    np.testing.assert_allclose(rest.features[..., levels], by_numpy.features[:, 200:, levels], atol=1e-3)


def test_arrays_that_are_not_of_one_piece_are_refused(by_numpy: Analysis) -> None:
    with pytest.raises(ValueError, match="strides"):
        native.flatten(by_numpy.spectra[..., ::2])


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


def test_the_build_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SOURCE, tmp_path)
    assert compiled(tmp_path / "chain.c", tmp_path / "chain.so")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert native._load() is not None


@pytest.mark.parametrize(("compiler", "path"), [("false", None), ("no-such-compiler", None), ("", "")])
def test_without_a_compiler_that_works_nothing_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, path: str | None
) -> None:
    monkeypatch.setenv("CC", compiler)
    if path is not None:
        monkeypatch.setenv("PATH", path)
    assert not compiled(SOURCE, tmp_path / "chain.so")
    assert not (tmp_path / "chain.so").exists()
