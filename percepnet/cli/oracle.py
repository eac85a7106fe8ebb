"""``percepnet oracle CLEAN NOISE OUT/``: the stages of the chain, with ideal answers, as a report."""

import argparse
import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from percepnet.cli import FAILURE
from percepnet.cli.audio_files import audio_files, mono
from percepnet.cli.audio_writing import write
from percepnet.cli.options import add_jobs, path_of, within
from percepnet.cli.processes import collect
from percepnet.cli.progress import add_quiet, progress_bar
from percepnet.evaluation import means, scores
from percepnet.framing import SAMPLE_RATE
from percepnet.mixture import at_ratio, excerpt
from percepnet.oracle import stages
from percepnet.report import COLUMNS, Example, Scores, Stage, figure, level_db, page, spectrogram


@dataclass(frozen=True)
class Task:
    """One mixture, and where its files go if it is to be seen and heard."""

    clean: Path
    noise: Path
    snr_db: float
    seconds: float | None  # of the clean file; None: all of it
    seed: tuple[int, int]
    out: Path
    label: str | None  # begins the names of its files; None: scores only


@dataclass(frozen=True)
class Outcome:
    """What became of a mixture."""

    scores: dict[str, dict[str, float]]  # stage → metric → value
    example: Example | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet oracle``."""
    parser.add_argument("clean", type=path_of, metavar="CLEAN", help="clean speech: a file or a directory")
    parser.add_argument(
        "noise", type=path_of, metavar="NOISE", help="noise: a file or a directory; looped or cut to fit"
    )
    parser.add_argument(
        "out", type=path_of, metavar="OUT", help="directory for index.html, scores.csv and scores.json"
    )
    parser.add_argument(
        "--snr",
        type=within(float, -50, 100),
        nargs="+",
        default=[5.0],
        metavar="DB",
        help="active speech level to noise RMS; with several, every pair is mixed at each (default: 5)",
    )
    parser.add_argument(
        "--seed", type=within(int, 0, 2**32), default=0, help="of pairs and excerpts (default: 0)"
    )
    parser.add_argument(
        "--limit", type=within(int, 1, 1e6), metavar="N", help="take N files of CLEAN (default: all)"
    )
    parser.add_argument(
        "--seconds", type=within(float, 1, 3600), help="excerpt from each file of CLEAN (default: all of it)"
    )
    parser.add_argument(
        "--examples",
        type=within(int, 0, 1000),
        default=6,
        metavar="N",
        help="mixtures with pictures and players; the others only count in the mean (default: 6)",
    )
    add_jobs(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Makes the report; goes on after a bad file and then returns 1."""
    tasks = _tasks(args)
    labels = [f"{task.clean} with {task.noise}" for task in tasks]
    with progress_bar(len(tasks), "mixtures", quiet=args.quiet) as bar:
        outcomes = collect(mixture, tasks, args.jobs, labels, bar)
    if not outcomes:
        return FAILURE
    kept = [(tasks[index], outcome) for index, outcome in outcomes.items()]
    averages: dict[str, Scores] = {
        stage: means(outcome.scores[stage] for _, outcome in kept) for stage in kept[0][1].scores
    }
    _write_scores(args.out, kept, averages)
    ratios = ", ".join(f"{snr:g}" for snr in args.snr)
    summary = f"{len(kept)} mixture{'s' if len(kept) > 1 else ''} at {ratios} dB, seed {args.seed}."
    examples = [outcome.example for _, outcome in kept if outcome.example]
    (args.out / "index.html").write_text(
        page(summary, averages, examples), encoding="utf-8", errors="replace"
    )
    print(table(averages, len(kept)))
    print(f"report: {args.out / 'index.html'}")
    return FAILURE if len(kept) < len(tasks) else 0


def mixture(task: Task) -> Outcome:
    """Mixes, runs all stages, scores them and writes the files of an example."""
    rng = np.random.default_rng(task.seed)
    clean = mono(task.clean)
    if task.seconds and len(clean) > task.seconds * SAMPLE_RATE:
        clean = excerpt(clean, round(task.seconds * SAMPLE_RATE), rng)
    clean, noise = at_ratio(clean, excerpt(mono(task.noise), len(clean), rng), task.snr_db)
    versions = stages(clean, noise)
    found = {name: scores(clean, samples, SAMPLE_RATE, COLUMNS) for name, samples in versions.items()}
    if task.label is None:
        return Outcome(found, None)

    brightest = float(level_db(versions["noisy"]).max())
    panels = []
    for number, (name, samples) in enumerate({"clean": clean, **versions}.items()):
        stem = f"files/{task.label}-{number}-{name.replace(' ', '-').replace('+', 'and')}"
        write(task.out / f"{stem}.flac", samples[None], SAMPLE_RATE)
        (task.out / f"{stem}.png").write_bytes(spectrogram(samples, brightest))
        panels.append(Stage(name, f"{stem}.flac", f"{stem}.png", found.get(name, {})))
    title = f"{task.clean.stem} + {task.noise.stem}, {task.snr_db:g} dB"
    return Outcome(found, Example(title, len(clean) / SAMPLE_RATE, panels))


def table(averages: dict[str, Scores], count: int) -> str:
    """Mean scores, a line for every stage."""
    head = f"{count} mixture{'s' if count > 1 else ''}"
    lines = [f"{head:<18}" + "".join(f"{label:>12}" for label in COLUMNS.values())]
    for stage, values in averages.items():
        lines.append(f"{stage:<18}" + "".join(f"{figure(metric, values[metric]):>12}" for metric in COLUMNS))
    return "\n".join(lines)


def _tasks(args: argparse.Namespace) -> list[Task]:
    """Pairs of files, the same for the same seed and files; every noise once before any a second time."""
    rng = np.random.default_rng(args.seed)
    cleans, noises = _files(args.clean), _files(args.noise)
    if args.limit and args.limit < len(cleans):
        cleans = [cleans[index] for index in sorted(rng.permutation(len(cleans))[: args.limit])]
    order = rng.permutation(len(noises))
    tasks: list[Task] = []
    for number, clean in enumerate(cleans):
        noise = noises[order[number % len(noises)]]
        for snr in args.snr:
            label = f"{len(tasks) + 1:03d}" if len(tasks) < args.examples else None
            tasks.append(Task(clean, noise, snr, args.seconds, (args.seed, number), args.out, label))
    return tasks


def _files(path: Path) -> list[Path]:
    return [path / name for name in audio_files(path)] if path.is_dir() else [path]


def _write_scores(out: Path, kept: Sequence[tuple[Task, Outcome]], averages: dict[str, Scores]) -> None:
    """``scores.csv`` with a line for every mixture and stage, ``scores.json`` with the means."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "scores.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["clean", "noise", "snr_db", "stage", *COLUMNS])
        for task, outcome in kept:
            for stage, values in outcome.scores.items():
                figures = [f"{values[metric]:.6g}" for metric in COLUMNS]
                writer.writerow([task.clean, task.noise, f"{task.snr_db:g}", stage, *figures])
    mean = {
        stage: {metric: None if math.isnan(value) else value for metric, value in values.items()}
        for stage, values in averages.items()
    }
    document = {"mixtures": len(kept), "mean": mean}
    (out / "scores.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
