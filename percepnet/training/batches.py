"""What a training step is shown: rows that go through mixtures of the shards there are."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.training import shards
from percepnet.training.variation import Variation


class Batches:
    """Draws from the shards in ``folder``, of which ``hours`` are wanted; with ``fresh`` from the newest so many.

    ``batch`` rows of ``hops`` hops, which divide ``shards.HOPS``; ``failed`` is asked while there is no shard yet,
    and may wait. ``variation``: amount of that of :class:`Variation`.
    """

    def __init__(
        self,
        folder: Path,
        hours: float,
        batch: int,
        hops: int,
        *,
        fresh: bool,
        failed: Callable[[], bool],
        variation: float = 1.0,
    ) -> None:
        self._folder, self._batch, self._hops = folder, batch, hops
        self._wanted = round(hours / shards.HOURS) or 1
        self._fresh, self._failed, self._variation = fresh, failed, variation

    def draw(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless sequences ``[batch, hops, COLUMNS]``, and which ``[batch]`` of them are the first of a mixture.

        Each row goes through its mixture from one draw to the next, and then through another, in a voice of its own.
        """
        rng, hops, voices = np.random.default_rng(seed), self._hops, Variation(self._batch, self._variation)
        present: list[NDArray[np.float16]] = []
        mixtures: list[NDArray[np.float16]] = [np.empty((0, shards.COLUMNS), np.float16)] * self._batch
        place = rng.integers(shards.HOPS // hops, size=self._batch) * hops
        for step in itertools.count():
            if not present or ((self._fresh or len(present) < self._wanted) and step % 20 == 0):
                present = self._present()
            place = np.where(place == shards.HOPS, 0, place)
            begun = (place == 0) | (step == 0)
            for row in np.flatnonzero(begun):
                mixtures[row] = present[rng.integers(len(present))][rng.integers(shards.STREAMS)]
            voices.renew(np.flatnonzero(begun), rng)
            rows = np.stack([m[p : p + hops] for m, p in zip(mixtures, place, strict=True)])
            place = place + hops
            yield torch.from_numpy(voices.apply(rows)), torch.from_numpy(begun)

    def _present(self) -> list[NDArray[np.float16]]:
        """The shards there are, at least one: waits for the first, and fails when its makers have."""
        found: list[NDArray[np.float16]] = []
        while not found:
            paths = shards.paths(self._folder)
            for path in paths[-self._wanted :] if self._fresh else paths[: self._wanted]:
                with contextlib.suppress(FileNotFoundError):  # its place was taken meanwhile
                    found.append(np.load(path, mmap_mode="r"))
            if not found and self._failed():
                raise RuntimeError("the process that makes mixtures has failed; see its error above")
        return found


def split(batch: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Features, and (ideal gains, ideal strengths, weights, speech), of rows ``[B, T, COLUMNS]``."""
    features, gain, strength, weight, speaking = torch.split(
        batch.float(), [FEATURES, BANDS, BANDS, BANDS, 1], dim=-1
    )
    return features, (gain, strength, weight, speaking)
