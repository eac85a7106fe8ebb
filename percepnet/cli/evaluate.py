"""``percepnet evaluate DIR``: a table and a CSV of scores."""

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from percepnet.bench import STEP
from percepnet.cli import FAILURE
from percepnet.cli.audio_files import audio_files, read
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
from percepnet.enhancer import Enhancer
from percepnet.evaluation import DNSMOS_FITS, METRICS, means, scores
from percepnet.framing import LATENCY, SAMPLE_RATE, Float
from percepnet.peers import PEERS
from percepnet.portrait import portrait
from percepnet.resampling import resample

MOST_DIFFERENCE: Final = 0.1  # seconds by which the lengths of clean and degraded may differ
COST: Final = "cpu"
COLUMNS: Final = {**METRICS, COST: "% core"}  # processor time of one stream, in a process with nothing else

Scores = Mapping[str, Mapping[str, float]]  # of one file: system → metric → value


@dataclass(frozen=True)
class Task:
    """One name in the test set, and how to enhance it."""

    folder: Path
    name: Path
    enhanced: bool  # DIR/enhanced holds the answer
    peers: tuple[str, ...]
    settings: Mapping[str, Any]  # of the enhancer
    picture: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet evaluate``."""
    parser.add_argument(
        "folder",
        type=path_of,
        metavar="DIR",
        help="holds clean/ and noisy/ with files of the same names; scores what percepnet makes of noisy/, "
        "or enhanced/ where there is one",
    )
    parser.add_argument(
        "--csv", type=path_of, metavar="FILE", help="scores of every file (default: DIR/scores.csv)"
    )
    add_peers(parser, "score")
    parser.add_argument(
        "--pictures",
        type=within(int, 0, 1000),
        default=0,
        metavar="N",
        help="draw spectrograms, gains and strengths of the first N files into DIR/pictures (default: none)",
    )
    add_jobs(parser)
    add_enhancer_options(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Scores every file; goes on after a bad one and then returns 1."""
    ready = (args.folder / "enhanced").is_dir()
    given = {
        f"--pictures {args.pictures}": args.pictures > 0,
        f"--model {args.model}": args.model is not None,
        "--no-postfilter": not args.postfilter,
        "--attenuation-limit-db": args.attenuation_limit_db is not None,
    }
    if ready and any(given.values()):
        option = next(option for option, is_given in given.items() if is_given)
        raise ValueError(
            f"{option} is of what percepnet makes of noisy/; allowed: none of it where "
            f"{args.folder / 'enhanced'} is scored"
        )
    if args.csv is not None and args.csv.suffix.lower() != ".csv":
        raise ValueError(f"--csv {args.csv}: allowed are files named .csv")
    names = _names(args.folder, "enhanced" if ready else None)
    tasks = [
        Task(args.folder, name, ready, args.peers, enhancer_settings(args), number < args.pictures)
        for number, name in enumerate(names)
    ]
    with progress_bar(len(tasks), "files", quiet=args.quiet) as bar:
        found = collect(score, tasks, args.jobs, names, bar)
    if not found:
        return FAILURE
    rows = [(names[index], scored) for index, scored in found.items()]
    if ready and not args.quiet:
        print(f"scored {args.folder / 'enhanced'} as it is", file=sys.stderr)
    target = args.csv or args.folder / "scores.csv"
    try:
        print(table([row for _, row in rows]), flush=True)
    finally:
        write_csv(target, rows)
    print(f"scores of every file: {target}")
    return FAILURE if len(found) < len(tasks) else 0


def score(task: Task) -> Scores:
    """The scores of noisy, enhanced and every peer for one file; of clean those that need no reference, as a bound."""
    clean, rate = _mono(task.folder / "clean" / task.name)
    noisy = _aligned(task.folder / "noisy" / task.name, clean, rate)
    found = {"noisy": scores(clean, noisy, rate) | {COST: math.nan}}
    if task.enhanced:
        ready = _aligned(task.folder / "enhanced" / task.name, clean, rate)
        found["enhanced"] = scores(clean, ready, rate) | {COST: math.nan}
    systems: dict[str, Callable[[Float], Float]] = {peer: PEERS[peer] for peer in task.peers}
    if not task.enhanced:
        systems = {"enhanced": partial(_streamed, task.settings)} | systems
    wide = resample(noisy[None], rate, SAMPLE_RATE)[0]
    for system, enhance in systems.items():
        began = time.process_time()
        enhanced = enhance(wide)
        cost = 100 * (time.process_time() - began) * SAMPLE_RATE / len(wide)
        samples = resample(enhanced[None], SAMPLE_RATE, rate)[0, : len(noisy)]
        found[system] = scores(clean, samples, rate) | {COST: cost}
    found["clean"] = dict.fromkeys(COLUMNS, math.nan) | scores(clean, clean, rate, DNSMOS_FITS)
    if task.picture:
        path = task.folder / "pictures" / task.name.with_suffix(".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        exact = resample(clean[None], rate, SAMPLE_RATE)[0]
        path.write_bytes(portrait(exact, wide, task.name.stem, Enhancer(**task.settings)))
    return found


def _streamed(settings: Mapping[str, Any], samples: Float) -> Float:
    """``samples [n]`` at 48 kHz through the enhancer as a call brings them, without the delay."""
    enhancer = Enhancer(**settings)
    packets = np.pad(samples, (0, LATENCY + (-len(samples) - LATENCY) % STEP)).reshape(-1, 1, STEP)
    out = np.concatenate([enhancer.process(packet)[0] for packet in packets])
    return out[LATENCY : LATENCY + len(samples)]


def write_csv(path: Path, rows: Sequence[tuple[Path, Scores]]) -> None:
    """One line for every file and system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "system", *COLUMNS])
        for name, systems in rows:
            for system, values in systems.items():
                writer.writerow([name.as_posix(), system, *(f"{values[metric]:.6g}" for metric in COLUMNS)])


def table(rows: Sequence[Scores]) -> str:
    """Means over files, a line for every system and the gain of each over noisy."""
    averages = {system: means(row[system] for row in rows) for system in rows[0]}
    head = f"{len(rows)} file{'s' if len(rows) > 1 else ''}"
    lines = [f"{head:<18}" + "".join(f"{label:>11}" for label in COLUMNS.values())]
    for system, values in averages.items():
        lines.append(f"{system:<18}" + "".join(f"{_figure(values[metric]):>11}" for metric in COLUMNS))
    for system, values in averages.items():
        if system != "noisy":
            gains = (values[metric] - averages["noisy"][metric] for metric in METRICS)
            lines.append(
                f"{system + ' − noisy':<18}" + "".join(f"{_figure(gain, '+'):>11}" for gain in gains)
            )
    return "\n".join(lines)


def _figure(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.3f}"


def _names(folder: Path, third: str | None) -> list[Path]:
    """The names that all folders share; ValueError where one is missing anywhere."""
    names = {part: set(audio_files(folder / part)) for part in ("clean", "noisy", third) if part}
    everything = set().union(*names.values())
    for part, present in names.items():
        if missing := sorted(everything - present):
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ValueError(f"{folder / part} lacks {', '.join(map(str, missing[:3]))}{more}")
    return sorted(everything)


def _mono(path: Path) -> tuple[Float, int]:
    samples, rate = read(path)
    return samples.mean(axis=0), rate


def _aligned(path: Path, clean: Float, rate: int) -> Float:
    """The file's samples at ``rate``, with the length of ``clean``."""
    samples, own_rate = _mono(path)
    samples = resample(samples[None], own_rate, rate)[0]
    difference = abs(len(samples) - len(clean)) / rate
    if difference > MOST_DIFFERENCE:
        raise ValueError(
            f"{path} differs by {difference:.2f} s from its clean file; allowed are {MOST_DIFFERENCE} s"
        )
    return np.pad(samples, (0, max(0, len(clean) - len(samples))))[: len(clean)]
