import io
import math

import numpy as np
import pytest
from matplotlib.image import imread
from pages import Page

from percepnet.report import Example, Stage, figure, level_db, page, spectrogram


def tone(frequency: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * frequency * np.arange(48_000) / 48_000)).astype(np.float32)


def test_a_tone_lies_in_its_bin() -> None:
    level = level_db(tone(5_000))
    assert level.shape == (401, 101)  # 0–20 kHz in steps of 50 Hz, a column for every 10 ms
    np.testing.assert_array_equal(level[:, 5:-5].argmax(axis=0), 100)


def test_levels_are_decibels() -> None:
    middle = slice(5, -5)
    loud, soft = level_db(tone(5_000, 0.5))[100, middle], level_db(tone(5_000, 0.05))[100, middle]
    np.testing.assert_allclose(loud - soft, 20, atol=0.01)


def test_pictures_share_their_scale_and_have_low_frequencies_below() -> None:
    brightest = float(level_db(tone(5_000)).max())
    loud = imread(io.BytesIO(spectrogram(tone(5_000), brightest)))[..., :3].sum(axis=2)
    soft = imread(io.BytesIO(spectrogram(tone(5_000, 0.005), brightest)))[..., :3].sum(axis=2)
    assert loud.shape == (401, 101)
    assert loud[:, 50].argmax() == 400 - 100  # rows count from the top
    assert soft[300, 50] < 0.75 * loud[300, 50]
    assert loud[300, 50] > 2.5  # almost white


def test_the_page_shows_all_it_was_given() -> None:
    found = {"pesq_wb": 2.345, "stoi": 0.9, "si_sdr": -1.25}
    stages = [Stage("a <b>", "files/a.flac", "files/a.png", found), Stage("clean", "c.flac", "c.png", {})]
    text = page(
        "two & more", {"a <b>": found, "network": dict.fromkeys(found, math.nan)}, [Example("x", 3, stages)]
    )

    shown = Page(text)
    assert shown.sources == ["files/a.png", "files/a.flac", "c.png", "c.flac"]
    for words in ("a <b>", "two & more", "2.35", "0.900", "-1.2", "–", "PESQ-WB"):
        assert words in shown.words, words
    assert "http" not in text  # needs nothing from elsewhere


def test_an_empty_table_is_still_a_page() -> None:
    text = page("", {"noisy": {"pesq_wb": math.nan, "stoi": math.nan, "si_sdr": math.nan}}, [])
    assert "nan" not in text
    assert figure("stoi", math.nan) == "–"


def test_short_signals_have_pictures() -> None:
    for samples in (1, 479, 481):
        assert spectrogram(np.zeros(samples, np.float32), 0).startswith(b"\x89PNG")


@pytest.mark.parametrize(("metric", "text"), [("pesq_wb", "1.23"), ("stoi", "1.235"), ("si_sdr", "1.2")])
def test_figures_have_the_digits_that_mean_something(metric: str, text: str) -> None:
    assert figure(metric, 1.2346) == text
