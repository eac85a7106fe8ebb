"""Mixtures turned into what the loss compares: features, targets and weights, in shards on disk.

The chain's own code makes them, so training and run time cannot drift apart.
"""

import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from percepnet import bands, framing
from percepnet.analysis import HISTORY, AnalysisState, analyse
from percepnet.bands import BANDS, CENTRES_HZ
from percepnet.features import FEATURES, SPEECH_BANDS
from percepnet.framing import HOP
from percepnet.targets import targets
from percepnet.training.corpus import Corpus
from percepnet.training.mixing import Mixer

VERSION: Final = 6  # of mixtures, features and targets: raise it with every change of what a shard holds
STREAMS: Final = 32  # mixtures in a shard
HOPS: Final = 1000  # 10 s each
COLUMNS: Final = FEATURES + 3 * BANDS + 1  # features, gains, strengths, weights, whether somebody speaks
HOURS: Final = STREAMS * HOPS * 0.01 / 3600  # audio in a shard
_BLOCK: Final = 20  # hops analysed at once
_SILENCE: Final = 1e-8  # energy of a band of digital silence, or nearly
_NEAR: Final = 11  # hops; a pause begins and ends 50 ms from speech
_PAUSES: Final = 10  # hops of them that tell what a recording's hiss is


def make_shard(mixer: Mixer) -> NDArray[np.float16]:
    """``[STREAMS, HOPS, COLUMNS]``: network inputs, ideal gains, ideal strengths, the weight of each band, and 1 where
    somebody speaks.

    A band's weight is 0 above the bandwidth of its speech, and falls where the band holds next to nothing.
    """
    mixtures = [mixer.draw() for _ in range(STREAMS)]
    rows = [np.stack(x) for x in zip(*((m.noisy, m.clean, m.uncoded) for m in mixtures), strict=True)]
    noisy, clean, uncoded = (np.pad(x, ((0, 0), (HISTORY, 0))) for x in rows)
    evidence = np.array([m.bandwidth for m in mixtures])[:, None] >= CENTRES_HZ  # [streams, bands]
    energy = bands.energy(framing.spectrum(framing.frames(rows[1], HOPS - 1)))  # [streams, hops, BANDS]
    threshold = _speech_threshold(energy)
    background = _background(energy, threshold)
    state = AnalysisState.new(STREAMS)
    out = np.empty((STREAMS, HOPS, COLUMNS), np.float16)
    for hop in range(0, HOPS, _BLOCK):
        span = slice(hop * HOP, HISTORY + (hop + _BLOCK) * HOP)
        frames = analyse(noisy[:, span], state)
        before = framing.spectrum(framing.frames(uncoded[:, span], _BLOCK, delay=framing.LOOKAHEAD))
        # what a codec adds is no noise: nobody can foresee it, and a clean voice would be asked to be lower
        told = frames._replace(energy=np.minimum(frames.energy, bands.energy(before)))
        ideal = targets(clean[:, span], told, background)
        audible = np.clip((np.log10(frames.energy + 1e-12) + 8) / 2, 0, 1)  # from −130 to −110 dBFS a band
        weight = evidence[:, None] * audible
        speaking = bands.energy(ideal.clean)[..., SPEECH_BANDS].sum(-1, keepdims=True) > threshold
        out[:, hop : hop + _BLOCK] = np.concatenate(
            [frames.features, ideal.gain, ideal.strength, weight, speaking], axis=-1
        )
    return out


def _speech_threshold(energy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Energies ``[streams, 1, 1]`` above which a frame of ``energy [streams, hops, BANDS]`` is speech.

    30 dB below the frame that one in twenty of those with any sound exceeds, as in ``mixture.active_level``.
    """
    total = energy[..., SPEECH_BANDS].sum(-1, keepdims=True)
    total[total < _SILENCE] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mixtures without any sound
        return np.nan_to_num(1e-3 * np.nanpercentile(total, 95, axis=1, keepdims=True), nan=np.inf)


def _background(energy: NDArray[np.float32], threshold: NDArray[np.float32]) -> NDArray[np.float32]:
    """Energies ``[streams, 1, BANDS]`` of the hiss and room noise in the pauses of clean ``[streams, hops, BANDS]``.

    Twice the 30th percentile of each band in the pauses: hops below ``threshold [streams, 1, 1]`` that are neither near
    speech nor digital silence. At most 30 dB below the loudest frames of the loudest band; 0 where pauses are few.
    """
    speaking = energy[..., SPEECH_BANDS].sum(-1, keepdims=True) > threshold
    pause = (energy > _SILENCE) & ~maximum_filter1d(speaking, _NEAR, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # bands and mixtures without pauses, or any sound
        hiss = 2 * np.nanpercentile(np.where(pause, energy, np.nan), 30, axis=1, keepdims=True)
    loud = np.percentile(energy, 98, axis=1, keepdims=True) / bands.WIDTHS
    limit = 1e-3 * loud.max(-1, keepdims=True) * bands.WIDTHS
    enough = pause.sum(1, keepdims=True) >= _PAUSES
    return np.where(enough, np.minimum(hiss, limit), 0).astype(np.float32)


def produce(
    folder: Path,
    cache: Path,
    split: str,
    hours: float,
    first: int = 0,
    step: int = 1,
    wait_until_wanted: Callable[[], None] = lambda: None,
    *,
    endless: bool = False,
) -> None:
    """Write the shards ``first, first + step, …`` up to ``hours`` of audio to ``cache/split``.

    Those that are there already stay as they are; ValueError if another version made them. ``endless`` goes on with
    new numbers, and each new shard then takes the place of the oldest.
    """
    corpus = Corpus(folder, cache, split)
    target = cache / split
    target.mkdir(parents=True, exist_ok=True)
    kept = round(hours / HOURS) or 1
    made_by = target / "version"
    if not paths(target):
        made_by.write_text(str(VERSION))
    elif (found := made_by.read_text() if made_by.exists() else "1") != str(VERSION):
        raise ValueError(f"{target} has mixtures of version {found}; this is {VERSION}: take another --cache")
    for number in itertools.count(first, step) if endless else range(first, kept, step):
        wait_until_wanted()
        path = target / f"{number:05d}.npy"
        partial = path.with_suffix(f".{os.getpid()}.npy")
        if not path.exists():
            # a mixer of its own for each shard: what a shard holds depends on its number alone
            shard = make_shard(Mixer(corpus, HOPS * HOP, seed=number + (10**6 if split == "valid" else 0)))
            np.save(partial, shard)
            partial.replace(path)
        if endless:
            for old in paths(target)[:-kept]:
                old.unlink(missing_ok=True)


def paths(folder: Path) -> list[Path]:
    """The finished shards in ``folder``, oldest first."""
    return sorted(
        (path for path in folder.glob("*.npy") if path.stem.isdigit()), key=lambda path: int(path.stem)
    )
