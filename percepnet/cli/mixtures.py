"""``percepnet mixtures DATA OUT``: a fixed test set, ``OUT/clean`` and ``OUT/noisy``, from a folder of recordings."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Final

import numpy as np
from scipy.signal import fftconvolve

from percepnet.cli.audio_files import read_mono
from percepnet.cli.audio_writing import write
from percepnet.cli.options import path_of, within
from percepnet.cli.processes import end_in_order
from percepnet.cli.progress import add_quiet, progress_bar
from percepnet.framing import SAMPLE_RATE, Float, from_pcm
from percepnet.mixture import PEAK, active_level, at_ratio, excerpt
from percepnet.resampling import resample
from percepnet.training.corpus import Recording, scan
from percepnet.training.rooms import EARLY, room_response

_TRIES: Final = 100

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet mixtures``."""
    parser.add_argument(
        "data", type=path_of, metavar="DATA", help="folder with manifest.csv, or speech/ and noise/"
    )
    parser.add_argument("out", type=path_of, metavar="OUT", help="directory for clean/ and noisy/")
    parser.add_argument("--count", type=within(int, 1, 100_000), default=60, help="mixtures (default: 60)")
    parser.add_argument("--seconds", type=within(float, 1, 600), default=10, help="of each (default: 10)")
    parser.add_argument(
        "--snr",
        type=within(float, -50, 100),
        nargs="+",
        default=[-5, 0, 5, 10, 15, 20],
        metavar="DB",
        help="active speech level to noise RMS, in turn (default: -5 0 5 10 15 20)",
    )
    parser.add_argument(
        "--levels",
        type=within(float, -70, -3),
        nargs=2,
        default=[-45, -5],
        metavar=("LOW", "HIGH"),
        help="range of the active speech level, dBFS; the loudest end where the sum would clip (default: -45 -5)",
    )
    parser.add_argument(
        "--reverberant",
        type=within(float, 0, 1),
        default=1 / 3,
        metavar="SHARE",
        help="of mixtures in a simulated room; clean then holds the first 15 ms of it (default: a third)",
    )
    parser.add_argument(
        "--band-limited",
        type=within(float, 0, 1),
        default=1 / 4,
        metavar="SHARE",
        help="of mixtures as a telephone of 8 or 16 kHz brings them (default: a quarter)",
    )
    parser.add_argument(
        "--bandwidth",
        type=within(float, 0, 24_000),
        default=0,
        help="only speech of so many Hz (default: any)",
    )
    parser.add_argument(
        "--split",
        choices=["train", "valid"],
        default="valid",
        help="which recordings; without a manifest.csv a twentieth is valid, and the rest train (default: valid)",
    )
    parser.add_argument("--seed", type=within(int, 0, 2**32), default=0, help="of the choices (default: 0)")
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the files; the same arguments over the same recordings give the same ones."""
    end_in_order()  # so that nothing half written stays
    low, high = args.levels
    if low > high:
        raise ValueError(f"--levels {low:g} {high:g}: allowed are LOW and HIGH with LOW at most HIGH")
    if (there := next(args.out.glob("*/*"), None)) is not None:
        raise ValueError(f"{args.out} has {there.name} already; allowed is a new or empty directory")
    found = [r for r in scan(args.data) if r.split == args.split]
    speech = [r for r in found if r.kind == "speech" and r.bandwidth >= args.bandwidth]
    noise = [r for r in found if r.kind == "noise"]
    if not speech or not noise:
        raise ValueError(
            f"{args.data} holds {len(speech)} recordings of speech and {len(noise)} of noise for this"
        )
    if not args.quiet:
        print(f"from {len(speech)} recordings of speech and {len(noise)} of noise", file=sys.stderr)
    length = round(args.seconds * SAMPLE_RATE)
    with progress_bar(args.count, "mixtures", quiet=args.quiet) as bar:
        for number in range(args.count):
            rng = np.random.default_rng((args.seed, number))
            snr = args.snr[number % len(args.snr)]
            clean = speaking = _excerpt(args.data, speech, length, rng)
            background = _excerpt(args.data, noise, length, rng)
            name = f"{number:04d}_{snr:g}dB"
            if rng.random() < args.reverberant:
                response = room_response(rng)
                clean, speaking = (fftconvolve(speaking, r)[:length] for r in (response[:EARLY], response))
                name += "_room"
            scaled, background = at_ratio(speaking, background, snr)
            # less than 1 where the sum would have clipped
            down = np.abs(scaled).max() / np.abs(speaking).max()
            pair = np.stack([clean * down, scaled + background])
            level = 10 ** (rng.uniform(*args.levels) / 20) / active_level(pair[0])
            pair = (pair * min(level, PEAK / np.abs(pair).max())).astype(np.float32)
            if rng.random() < args.band_limited:
                rate = int(rng.choice([8_000, 16_000]))
                pair = resample(resample(pair, SAMPLE_RATE, rate), rate, SAMPLE_RATE)[:, :length]
                name += f"_{rate // 1000}kHz"
            write(args.out / "clean" / f"{name}.flac", pair[:1], SAMPLE_RATE)
            write(args.out / "noisy" / f"{name}.flac", pair[1:], SAMPLE_RATE)
            bar.update()
    return 0


def _excerpt(folder: Path, recordings: list[Recording], length: int, rng: np.random.Generator) -> Float:
    """``length`` samples of a random recording that are not silent."""
    for _ in range(_TRIES):
        try:
            decoded = read_mono(folder / recordings[rng.integers(len(recordings))].file)
        except (OSError, ValueError) as error:
            logger.warning("left out: %s", error)
            continue
        if not len(decoded):
            continue
        part = excerpt(from_pcm(decoded), length, rng)
        if np.abs(part).max() > 1e-3:
            return part
    raise ValueError(f"{_TRIES} recordings of {folder}, one after the other, are silent or cannot be read")
