"""``percepnet bars DATA``: what must not happen to speech, measured on recordings held out from training."""

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from percepnet import bars, recogniser
from percepnet.bars import BARS
from percepnet.cli import FAILURE
from percepnet.cli.audio_files import audio_files, mono
from percepnet.cli.options import (
    add_enhancer_options,
    add_jobs,
    add_peers,
    enhancer_settings,
    path_of,
    within,
)
from percepnet.cli.processes import collect
from percepnet.cli.progress import add_quiet, progress_bar
from percepnet.framing import SAMPLE_RATE, Float
from percepnet.mixture import at_ratio, excerpt
from percepnet.peers import PEERS
from percepnet.training.corpus import scan

SECONDS: Final = 10  # of a clip
RATIOS: Final = (0, 5, 10)  # dB, of what is recognised

OURS: Final = "percepnet"

Measures = Mapping[str, float | list[float]]
Clip = Mapping[str, Measures]  # by system


@dataclass(frozen=True)
class Task:
    """A clip of noise, with or without one of speech, and whose output is measured."""

    speech: Path | None
    noise: Path
    english: bool
    number: int
    seed: int
    exact: Path | None  # the same model in float
    peers: tuple[str, ...]
    settings: Mapping[str, Any]  # of the enhancer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet bars``."""
    parser.add_argument(
        "data",
        type=path_of,
        metavar="DATA",
        help="folder with manifest.csv, or speech/ and noise/, of which a twentieth is then held out",
    )
    parser.add_argument(
        "--count", type=within(int, 1, 10_000), default=20, help="clips of speech (default: 20)"
    )
    parser.add_argument(
        "--english",
        type=path_of,
        metavar="DIR",
        help="English speech for the recogniser (default: leave it out)",
    )
    parser.add_argument(
        "--float",
        dest="exact",
        type=path_of,
        metavar="MODEL",
        help="the same network in float, to compare with",
    )
    parser.add_argument("--seed", type=within(int, 0, 2**32), default=0, help="of the choices (default: 0)")
    parser.add_argument("--csv", type=path_of, metavar="FILE", help="write every clip's measures to FILE")
    add_peers(parser, "measure")
    add_jobs(parser)
    add_enhancer_options(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Prints a table of bars; goes on after a bad clip and then returns 1."""
    tasks = _tasks(args)
    labels = [task.speech or task.noise for task in tasks]
    with progress_bar(len(tasks), "clips", quiet=args.quiet) as bar:
        found = collect(measure, tasks, args.jobs, labels, bar)
    if not found:
        return FAILURE
    print(table(list(found.values())), flush=True)
    if args.csv:
        _write(args.csv, [(labels[index], row) for index, row in found.items()])
    return FAILURE if len(found) < len(tasks) else 0


def measure(task: Task) -> Clip:
    """All measures of one clip, and of peers those that need no network to take apart."""
    rng = np.random.default_rng((task.seed, task.number))
    enhance = bars.suppressor(**task.settings)
    systems = {OURS: enhance, **{name: PEERS[name] for name in task.peers}}
    noise, _ = _clip(task.noise, rng)
    if task.speech is None:
        return {name: bars.noise_only(system, noise) for name, system in systems.items()}
    speech, once = _clip(task.speech, rng)
    if task.english:
        clean, noise = at_ratio(speech, noise, RATIOS[task.number % len(RATIOS)])
        return {name: _recognised(system, clean, noise) for name, system in systems.items()}
    found: dict[str, dict[str, float | list[float]]] = {
        name: {
            **bars.clean_speech(system, speech, once),
            **bars.quiet_speech(system, speech, noise),
            **bars.noise_that_begins(system, speech, noise),
            **bars.narrow_speech(system, speech),
        }
        for name, system in systems.items()
    }
    without = bars.suppressor(**task.settings, comb=False)
    found[OURS] |= bars.comb_gain(enhance, without, speech, noise)
    found[OURS] |= bars.machine(enhance, without, rng)
    if task.exact:
        exact = bars.suppressor(**{**task.settings, "model": task.exact})
        found[OURS] |= bars.eight_bits(enhance, exact, speech, noise)
    return found


def table(clips: Sequence[Clip]) -> str:
    """A line for every bar: over all clips, the bound, whether it is reached, and what peers have."""
    systems = list(clips[0])
    peers = "".join(f"{name:>16}" for name in systems[1:])
    lines = [f"{'':<72}{'measured':>10}{'bound':>9}{'':9}{peers}".rstrip()]
    for name, bar in BARS.items():
        found = [_summed(name, [clip[system] for clip in clips]) for system in systems]
        if math.isnan(found[0]):
            continue
        bound, verdict = "", ""
        if bar.bound is not None:
            reached = found[0] >= bar.bound if bar.least else found[0] <= bar.bound
            bound = f"{'≥' if bar.least else '≤'} {bar.bound:g} {bar.unit}".rstrip()
            verdict = "reached" if reached else "missed"
        mine, *theirs = ("" if math.isnan(x) else f"{x:.{bar.digits}f} {bar.unit}".rstrip() for x in found)
        others = "".join(f"{figure:>16}" for figure in theirs)
        lines.append(f"{bar.label:<72}{mine:>10}{bound:>9}  {verdict:<7}{others}".rstrip())
    return "\n".join(lines)


def _summed(name: str, rows: Sequence[Measures]) -> float:
    """The measure over all clips as its bar wants it; NaN where none has it."""
    values = [v for row in rows for v in np.ravel(row.get(name, [])) if not math.isnan(v)]
    if name in ("wer", "wer_noisy"):  # of all words, however few are in a clip
        words = sum(float(np.sum(row.get("words", 0))) for row in rows)
        return 100 * sum(values) / words if words else math.nan
    if not values:
        return math.nan
    return float(np.median(values) if BARS[name].median else np.mean(values))


def _write(path: Path, rows: Sequence[tuple[Path, Clip]]) -> None:
    """A line for every measure of every clip and system, several for what is measured at every word."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "system", "measure", "value"])
        for clip, systems in rows:
            for system, measures in systems.items():
                for name, values in measures.items():
                    writer.writerows([clip, system, name, f"{value:.6g}"] for value in np.ravel(values))


def _recognised(enhance: bars.Suppressor, clean: Float, noise: Float) -> Measures:
    """Words that are understood otherwise than in the clean clip, of how many."""
    noisy = clean + noise
    wanted = recogniser.words(clean)
    before, after = (recogniser.word_errors(wanted, recogniser.words(x)) for x in (noisy, enhance(noisy)))
    return {"words": len(wanted), "wer_noisy": before, "wer": after - before}


def _tasks(args: argparse.Namespace) -> list[Task]:
    """``--count`` clips of speech with noise, as many of English, and every noise alone."""
    rng = np.random.default_rng(args.seed)
    held_out = [r for r in scan(args.data) if r.split == "valid"]
    speech = [args.data / r.file for r in held_out if r.kind == "speech"]
    noise = [args.data / r.file for r in held_out if r.kind == "noise"]
    if not speech or not noise:
        raise ValueError(
            f"{args.data} holds {len(speech)} recordings of speech and {len(noise)} of noise in the split valid"
        )
    english = [args.english / name for name in audio_files(args.english)] if args.english else []
    pairs: list[tuple[Path | None, Path, bool]] = [(None, path, False) for path in noise]
    for paths, is_english in ((speech, False), (english, True)):
        order = rng.permutation(len(paths))
        for n in range(args.count) if paths else ():
            pairs.append((paths[order[n % len(paths)]], noise[rng.integers(len(noise))], is_english))
    seed, exact, peers, settings = args.seed, args.exact, args.peers, enhancer_settings(args)
    return [Task(*pair, number, seed, exact, peers, settings) for number, pair in enumerate(pairs)]


def _clip(path: Path, rng: np.random.Generator) -> tuple[Float, int]:
    """Ten seconds of a file from a random place, looped where it is shorter; and after how many samples that begins."""
    wide = mono(path)
    return excerpt(wide, SECONDS * SAMPLE_RATE, rng), len(wide)
