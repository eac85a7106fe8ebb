"""``percepnet enhance IN OUT``: files in, enhanced files out."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from percepnet.cli import FAILURE, describe
from percepnet.cli.audio_files import audio_files, reading
from percepnet.cli.audio_writing import FORMATS, beyond, check_writable, writing
from percepnet.cli.options import add_enhancer_options, enhancer_settings, path_of
from percepnet.cli.processes import end_in_order
from percepnet.cli.progress import add_quiet, progress_bar
from percepnet.enhancer import Enhancer
from percepnet.network import Network
from percepnet.recording import enhance_blocks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``percepnet enhance``."""
    parser.add_argument(
        "input",
        type=path_of,
        metavar="IN",
        help="any file that FFmpeg reads, or a directory of them",
    )
    parser.add_argument(
        "output",
        type=path_of,
        metavar="OUT",
        help=f"a file ({' '.join(FORMATS)}) or a directory; one is made where IN is a directory",
    )
    parser.add_argument(
        "--format",
        choices=[suffix[1:] for suffix in FORMATS],
        help="format of the files in a directory OUT (default: as IN, or wav where that cannot be written)",
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=(16, 24, 32),
        default=16,
        help="of wav, flac, aiff; 32 is float and has no full scale (default: 16)",
    )
    add_enhancer_options(parser)
    add_quiet(parser)


def run(args: argparse.Namespace) -> int:
    """Enhances every file; goes on after a bad one and then returns 1."""
    end_in_order()  # so that nothing half written stays
    jobs = _jobs(args.input, args.output, args.format)
    for _, target in jobs:
        check_writable(target, args.bits)
    Network(args.model)  # told now if there is none, not for each file
    failures = 0
    seconds = 0.0
    began = time.monotonic()
    with progress_bar(len(jobs), "files", quiet=args.quiet) as bar:
        for number, (source, target) in enumerate(jobs):

            def progress(share: float, number: int = number) -> None:
                bar.update(number + share - bar.n)

            try:
                length, clipped = _enhance(source, target, args, progress)
                seconds += length
                if clipped:
                    told = f"{target}: {clipped} samples above full scale were clipped; .wav and --bits 32 keep them"
                    bar.write(f"percepnet: {told}", file=sys.stderr)
            except (OSError, ValueError, MemoryError) as error:
                failures += 1
                told = describe(error)
                named = str(source) in told or str(target) in told
                bar.write(f"percepnet: {told}" if named else f"percepnet: {source}: {told}", file=sys.stderr)
            progress(1.0)
    done = len(jobs) - failures
    if done and not args.quiet:
        files = "1 file" if len(jobs) == 1 else f"{done} of {len(jobs)} files"
        took = time.monotonic() - began
        print(f"{files}, {seconds:.1f} s of audio in {took:.1f} s", file=sys.stderr)
    return FAILURE if failures else 0


def _enhance(
    source: Path, target: Path, args: argparse.Namespace, progress: Callable[[float], None]
) -> tuple[float, int]:
    """One file, some seconds of it in memory at a time; returns its seconds and how many samples were clipped."""
    done = clipped = 0
    with reading(source) as track:
        enhancer = Enhancer(streams=track.channels, **enhancer_settings(args))
        with writing(
            target,
            track.channels,
            track.rate,
            layout=track.layout,
            bits=args.bits,
            tags=track.tags,
            expected=track.expected,
        ) as add:
            for part in enhance_blocks(track.blocks, track.rate, enhancer):
                add(part)
                clipped += beyond(target, part, args.bits)
                done += part.shape[1]
                if track.expected:
                    progress(min(1.0, done / track.expected))
        return done / track.rate, clipped


def _jobs(source: Path, target: Path, suffix: str | None) -> list[tuple[Path, Path]]:
    """Pairs of files to read and to write. ValueError where two would be the same file."""
    if source.is_dir():
        if target.is_file():
            raise ValueError(f"{target} is a file; expected a directory, as {source} is one")
        out, within = target.resolve(), source.resolve()
        inside = target if out != within and out.is_relative_to(within) else None
        pairs = [
            (source / name, target / _named(name, suffix)) for name in audio_files(source, without=inside)
        ]
    elif target.is_dir():
        pairs = [(source, target / _named(Path(source.name), suffix))]
    elif suffix and target.suffix.lower() != f".{suffix}":
        raise ValueError(f"--format {suffix}: {target} names another; allowed where OUT is a directory")
    else:
        pairs = [(source, target)]
    inputs = {read_from.resolve() for read_from, _ in pairs}
    for _, written_to in pairs:
        if written_to.resolve() in inputs:
            raise ValueError(f"{written_to} would replace an input; name another OUT")
    twice = [path for path, count in Counter(written_to for _, written_to in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"several inputs would be written to {twice[0]}")
    return pairs


def _named(name: Path, suffix: str | None) -> Path:
    """``name`` with the wanted suffix; its own if that can be written, else ``.wav`` added to it."""
    if suffix:
        return name.with_suffix(f".{suffix}")
    return name if name.suffix.lower() in FORMATS else name.with_name(f"{name.name}.wav")
