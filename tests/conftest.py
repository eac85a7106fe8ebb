"""The shipped recordings, as arrays."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

RECORDINGS = Path(__file__).parent / "recordings"


def recording(name: str) -> NDArray[np.float32]:
    """Mono samples at 48 kHz, full scale ±1."""
    with av.open(RECORDINGS / f"{name}.flac") as file:
        parts = [frame.to_ndarray().ravel() for frame in file.decode(audio=0)]
    return np.concatenate(parts).astype(np.float32) / 32768


@pytest.fixture(scope="session")
def noisy() -> NDArray[np.float32]:
    """13.76 s of speech in noise at 7.5 dB."""
    return recording("noisy")


@pytest.fixture(scope="session")
def clean() -> NDArray[np.float32]:
    """The speech in ``noisy``, aligned to the sample."""
    return recording("clean")


@pytest.fixture
def speech(noisy: NDArray[np.float32]) -> NDArray[np.int16]:
    """``noisy`` as a caller sends it."""
    return (noisy * 32768).astype(np.int16)


@pytest.fixture
def hiss() -> NDArray[np.int16]:
    """Noise without speech, which an enhancer takes away."""
    return np.random.default_rng(3).normal(0, 1500, 48_000).astype(np.int16)
