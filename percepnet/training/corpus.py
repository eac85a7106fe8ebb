"""Recordings to train on: a folder of speech and noise, decoded once into one memory-mapped file."""

import csv
import hashlib
import logging
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tqdm import tqdm

from percepnet.cli.audio_files import audio_below, read_mono
from percepnet.framing import SAMPLE_RATE, Float, from_pcm

logger = logging.getLogger(__name__)

_ALLOWED = {"kind": ("speech", "noise"), "split": ("train", "valid")}
_COLUMNS = ("file", "kind", "split", "bandwidth_hz")


@dataclass(frozen=True)
class Recording:
    """One file of the corpus."""

    file: str
    kind: str  # speech or noise
    split: str  # train or valid
    bandwidth: float  # Hz; nothing above it is evidence of anything
    start: int = 0  # sample in the decoded corpus
    length: int = 0  # samples


def scan(folder: Path) -> list[Recording]:
    """Recordings of ``folder``: those of its ``manifest.csv`` (columns file, kind, split, bandwidth_hz), or else all
    audio below ``speech/`` and ``noise/``, taken as full-band, a twentieth of it (by name) for validation.

    Raises ValueError where there is no speech or no noise, or the manifest is not such a table.
    """
    manifest = folder / "manifest.csv"
    if manifest.exists():
        found = _listed(manifest)
    else:
        found = []
        for kind in ("speech", "noise"):
            for path in audio_below(folder / kind):
                name = (kind / path).as_posix()
                held_out = hashlib.sha256(os.fsencode(name)).digest()[0] < 13
                found.append(Recording(name, kind, "valid" if held_out else "train", SAMPLE_RATE / 2))
            mine = [r for r in found if r.kind == kind]
            if len({r.split for r in mine}) == 1 and len(mine) > 1:
                # so few that chance held out none, or all
                found[-1] = replace(mine[-1], split="valid" if mine[-1].split == "train" else "train")
    if missing := {"speech", "noise"} - {r.kind for r in found}:
        raise ValueError(
            f"no {' and no '.join(sorted(missing))} in {folder}: want manifest.csv, or speech/ and noise/"
        )
    return found


def _listed(manifest: Path) -> list[Recording]:
    found = []
    marked = "utf-8-sig"  # spreadsheets begin it with a mark
    with manifest.open(newline="", encoding=marked, errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (rows.fieldnames or ())]:
            raise ValueError(f"{manifest} has no column {', '.join(missing)}; wanted: {', '.join(_COLUMNS)}")
        for row in rows:
            here = f"{manifest}, line {rows.line_num}"
            for name, allowed in _ALLOWED.items():
                if row[name] not in allowed:
                    raise ValueError(f"{here}: {name} is {row[name]!r}; allowed: {', '.join(allowed)}")
            try:
                bandwidth = float(row["bandwidth_hz"])
            except (TypeError, ValueError):
                bandwidth = math.nan
            if not 0 < bandwidth < math.inf:
                raise ValueError(
                    f"{here}: bandwidth_hz is {row['bandwidth_hz']!r}; allowed: a number of Hz above 0"
                )
            found.append(Recording(row["file"], row["kind"], row["split"], bandwidth))
    return found


class Corpus:
    """Decoded recordings of one split.

    The first use of a folder decodes it into ``cache``; later ones map that file.
    """

    def __init__(self, folder: Path, cache: Path, split: str) -> None:
        samples, index, source = cache / "corpus.i16", cache / "corpus.csv", cache / "corpus.folder"
        wanted = scan(folder)
        for kind in ("speech", "noise"):
            if not any((r.kind, r.split) == (kind, split) for r in wanted):  # told before hours of decoding
                raise ValueError(
                    f"{folder} has no recording of {kind} in the split {split}; two are the least, one to validate with"
                )
        if not index.exists():
            cache.mkdir(parents=True, exist_ok=True)
            # another run may decode for the same cache, or have mapped it already
            with TemporaryDirectory(dir=cache) as own:
                made = [Path(own, path.name) for path in (samples, source, index)]
                _decode_all(folder, made[0], made[2])
                made[1].write_bytes(os.fsencode(folder.resolve()))
                for path in made:
                    path.replace(cache / path.name)  # the index last, which says that all is there
        if (made_from := Path(os.fsdecode(source.read_bytes()))) != folder.resolve():
            raise ValueError(f"{cache} was made from {made_from}; use another --cache for {folder}")
        with index.open(newline="", encoding="utf-8", errors="surrogateescape") as rows:
            entries = [
                Recording(
                    r["file"], r["kind"], r["split"], float(r["bandwidth"]), int(r["start"]), int(r["length"])
                )
                for r in csv.DictReader(rows)
            ]
        if [replace(r, start=0, length=0) for r in entries] != wanted:
            raise ValueError(
                f"{folder} has other recordings than when {cache} was made from it; use another --cache"
            )
        self.samples = np.memmap(samples, np.int16, mode="r")
        self.speech, self.noise = (
            # those without samples were unreadable
            [r for r in entries if r.kind == kind and r.split == split and r.length > 0]
            for kind in ("speech", "noise")
        )
        if not self.speech or not self.noise:
            raise ValueError(
                f"{folder} has {len(self.speech)} recordings of speech and {len(self.noise)} of noise that can be"
                f" read in the split {split}"
            )

    def crop(self, recording: Recording, length: int, rng: np.random.Generator) -> Float:
        """``length`` samples of a recording from a random place, looped where it is shorter; full scale is 1."""
        offset = int(rng.integers(max(recording.length - length, 0) + 1))
        size = min(length, recording.length - offset)
        start = recording.start + offset
        return np.resize(from_pcm(self.samples[start : start + size]), length)


def _decode_all(folder: Path, samples: Path, index: Path) -> None:
    entries, start = [], 0
    with samples.open("wb") as out:
        for recording in tqdm(scan(folder), desc="decoding", unit="file", disable=None):
            try:
                audio = read_mono(folder / recording.file)
            except (OSError, ValueError) as error:
                logger.warning("%s is left out: %s", recording.file, error)
                audio = np.zeros(0, np.int16)
            audio.tofile(out)
            entries.append(asdict(recording) | {"start": start, "length": len(audio)})
            start += len(audio)
    with index.open("w", newline="", encoding="utf-8", errors="surrogateescape") as out_index:
        writer = csv.DictWriter(out_index, list(entries[0]))
        writer.writeheader()
        writer.writerows(entries)
