"""``percepnet mixtures DATA OUT``: a fixed test set, ``OUT/clean`` and ``OUT/noisy``, from a folder of recordings."""

import argparse
from pathlib import Path
from typing import Final

import numpy as np

from percepnet.cli.audio_files import write
from percepnet.cli.options import within
from percepnet.cli.progress import add_quiet, progress_bar
from percepnet.framing import SAMPLE_RATE, Float
from percepnet.mixture import at_ratio, excerpt
from percepnet.training.corpus import Recording, decode, scan

_TRIES: Final = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet mixtures``."""
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="folder with manifest.csv, or speech/ and noise/"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="directory for clean/ and noisy/")
    parser.add_argument("--count", type=within(int, 1, 100_000), default=60, help="mixtures (default: 60)")
    parser.add_argument("--seconds", type=within(float, 1, 600), default=10, help="of each (default: 10)")
    parser.add_argument(
        "--snr",
        type=within(float, -50, 100),
        nargs="+",
        default=[2.5, 7.5, 12.5, 17.5],
        metavar="DB",
        help="active speech level to noise RMS, in turn (default: 2.5 7.5 12.5 17.5, as VoiceBank+DEMAND)",
    )
    parser.add_argument(
        "--bandwidth",
        type=within(float, 0, 24_000),
        default=0,
        help="only speech of so many Hz (default: any)",
    )
    parser.add_argument("--split", choices=["train", "valid"], default="valid", help="default: valid")
    parser.add_argument("--seed", type=within(int, 0, 2**32), default=0, help="of the choices (default: 0)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the files; the same arguments over the same recordings give the same ones."""
    found = [r for r in scan(args.data) if r.split == args.split]
    speech = [r for r in found if r.kind == "speech" and r.bandwidth >= args.bandwidth]
    noise = [r for r in found if r.kind == "noise"]
    if not speech or not noise:
        raise ValueError(
            f"{args.data} holds {len(speech)} recordings of speech and {len(noise)} of noise for this"
        )
    length = round(args.seconds * SAMPLE_RATE)
    with progress_bar(args.count, "mixtures", quiet=args.quiet) as bar:
        for number in range(args.count):
            rng = np.random.default_rng((args.seed, number))
            snr = args.snr[number % len(args.snr)]
            clean = _excerpt(args.data, speech, length, rng)
            clean, scaled = at_ratio(clean, _excerpt(args.data, noise, length, rng), snr)
            name = f"{number:04d}_{snr:g}dB.flac"
            write(args.out / "clean" / name, clean[None], SAMPLE_RATE)
            write(args.out / "noisy" / name, (clean + scaled)[None], SAMPLE_RATE)
            bar.update()
    return 0


def _excerpt(folder: Path, recordings: list[Recording], length: int, rng: np.random.Generator) -> Float:
    """``length`` samples of a random recording that are not silent."""
    for _ in range(_TRIES):
        decoded = decode(folder / recordings[rng.integers(len(recordings))].file)
        part = excerpt(decoded.astype(np.float32) / np.float32(32768), length, rng)
        if np.abs(part).max() > 1e-3:
            return part
    raise ValueError(f"{_TRIES} recordings of {folder}, one after the other, are silent")
