"""The oracle's report: a page of spectrograms, players and scores. Extra ``[eval]``.

Makes the text and the pictures; whoever calls it writes them to files.
"""

import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from types import MappingProxyType
from typing import Final

import numpy as np

from percepnet import framing
from percepnet.extras import needs
from percepnet.framing import BIN_HZ, HOP, Float

with needs("eval", "the report needs"):
    from matplotlib.image import imsave

HIGHEST: Final = 20_000  # Hz, top of the pictures
RANGE: Final = 80.0  # dB from the brightest colour to black
COLUMNS: Final = MappingProxyType({"pesq_wb": "PESQ-WB", "stoi": "STOI", "si_sdr": "SI-SDR, dB"})
DIGITS: Final = MappingProxyType({"pesq_wb": 2, "stoi": 3, "si_sdr": 1})

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """One panel: what it is, where its files lie relative to the page, and its scores, if it has any."""

    name: str
    audio: str
    picture: str
    scores: Scores


@dataclass(frozen=True)
class Example:
    """One mixture to see and hear: the clean signal and all stages."""

    name: str
    seconds: float
    stages: Sequence[Stage]


def level_db(samples: Float) -> Float:
    """Spectrogram of ``samples [n]`` at 48 kHz in dB, ``[bins to 20 kHz, hops of 10 ms]``."""
    padded = np.pad(samples, (HOP, HOP + -len(samples) % HOP))
    frames = framing.frames(padded[None], len(padded) // HOP - 1)
    magnitude = np.abs(framing.spectrum(frames)[0, :, : int(HIGHEST / BIN_HZ) + 1])
    level: Float = 20 * np.log10(np.maximum(magnitude, np.float32(1e-9))).T
    return level


def spectrogram(samples: Float, brightest_db: float) -> bytes:
    """PNG of ``samples [n]``, 0–20 kHz upwards, without axes; from ``brightest_db`` up it is all white.

    Give all pictures that are to be compared the same ``brightest_db``, such as ``level_db(noisy).max()``.
    """
    picture = io.BytesIO()
    imsave(
        picture,
        level_db(samples),
        vmin=brightest_db - RANGE,
        vmax=brightest_db,
        cmap="magma",
        origin="lower",
        format="png",
    )
    return picture.getvalue()


def page(summary: str, averages: Mapping[str, Scores], examples: Sequence[Example]) -> str:
    """The HTML page: ``summary`` in words, mean scores of every stage, and ``examples`` to see and hear."""
    template = Template(files("percepnet").joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        summary=html.escape(summary),
        head="".join(f"<th>{label}</th>" for label in COLUMNS.values()),
        rows="\n".join(_row(name, scores, averages) for name, scores in averages.items()),
        examples="\n".join(_example(example) for example in examples),
    )


def figure(metric: str, value: float) -> str:
    """``value`` with as many digits as mean something."""
    return "–" if math.isnan(value) else f"{value:.{DIGITS[metric]}f}"


def _row(name: str, scores: Scores, averages: Mapping[str, Scores]) -> str:
    cells = []
    for metric in COLUMNS:
        values = [row[metric] for row in averages.values() if not math.isnan(row[metric])]
        low, high = min([0.0, *values]), max([0.0, *values])
        share = 0.0 if math.isnan(scores[metric]) or high == low else (scores[metric] - low) / (high - low)
        cells.append(f'<td style="--share:{share:.1%}">{figure(metric, scores[metric])}</td>')
    return f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>"


def _example(example: Example) -> str:
    panels = "\n".join(_panel(stage) for stage in example.stages)
    return (
        f'<section class="example"><h2>{html.escape(example.name)}</h2>'
        f'<p class="length">{example.seconds:.1f} s · 0–{HIGHEST // 1000} kHz · {RANGE:.0f} dB range</p>'
        f'<div class="panels">\n{panels}\n</div></section>'
    )


def _panel(stage: Stage) -> str:
    found = (f"{COLUMNS[metric]} <b>{figure(metric, value)}</b>" for metric, value in stage.scores.items())
    name, audio, picture = (
        html.escape(text, quote=True) for text in (stage.name, stage.audio, stage.picture)
    )
    return (
        f"<figure><figcaption><span>{name}</span><span>{' · '.join(found)}</span></figcaption>"
        f'<div class="picture"><img src="{picture}" alt="Spectrogram: {name}" loading="lazy"><i></i></div>'
        f'<audio controls preload="metadata" src="{audio}"></audio></figure>'
    )
