import ctypes
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from percepnet.peers import PEERS, rnnoise


@pytest.mark.parametrize("samples", [1, 479, 480, 48_007])
def test_rnnoise_gets_int16_scale_in_frames_and_loses_its_delay(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that only delays by 20 ms, as RNNoise does, has to give the input back."""
    kept = np.zeros(960, np.float32)
    alive: list[str] = []

    def process(state: str, into: ctypes.Array, out_of: ctypes.Array) -> float:
        nonlocal kept
        assert alive == [state]
        frame = np.ctypeslib.as_array(out_of, (480,))
        assert np.abs(frame).max() <= 32_768
        everything = np.concatenate([kept, frame])
        np.ctypeslib.as_array(into, (480,))[:] = everything[:480]
        kept = everything[480:]
        return 1.0

    binding = SimpleNamespace(
        create=lambda: alive.append("a state") or "a state",
        destroy=alive.remove,
        lib=SimpleNamespace(rnnoise_process_frame=process),
    )
    package = ModuleType("pyrnnoise")
    package.rnnoise = binding  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyrnnoise", package)
    x = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
    np.testing.assert_allclose(rnnoise(x), x, atol=1e-6)
    assert alive == []


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrnnoise", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pyrnnoise"):
        PEERS["rnnoise"](np.zeros(480, np.float32))
