"""The trained network in onnxruntime: one immutable session per model file, recurrent state per stream.

A model file takes the features of one packet, of a fixed number of hops, and the state ``[streams, n]`` of each call as
one row; it answers gains, strengths, and the state after each hop. Fixed, because the hops are unrolled in the file: a
loop over them makes the run for a single call a fifth dearer.
"""

import os
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, Final

import numpy as np

from percepnet.features import FEATURES
from percepnet.framing import Float

# Since 1.29 it tells Microsoft of each session, with an id of the machine, unless told not to before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

MODELS: Final = Path(__file__).parent / "models"
DEFAULT_MODEL: Final = MODELS / "subband.onnx"


@lru_cache(maxsize=8)
def _session(path: Path, identity: tuple[int, ...]) -> Any:
    """The session of a file while it is the one of that ``identity``."""
    options = onnxruntime.SessionOptions()
    # Calls are the parallelism: a pool of threads in each session would fight the other workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _find(model: str | Path | None) -> Path:
    if not isinstance(model, (str, os.PathLike, NoneType)):
        raise TypeError(
            f"model is {model!r}; allowed: the path of an .onnx file, a shipped one's name, or None"
        )
    shipped = sorted(path.stem for path in MODELS.glob("*.onnx"))
    path = (
        DEFAULT_MODEL if model is None else MODELS / f"{model}.onnx" if str(model) in shipped else Path(model)
    )
    if not path.is_file():
        raise FileNotFoundError(
            f"no model at {path}; allowed: {', '.join(shipped)}, or an .onnx file written by 'percepnet export'"
        )
    return path


class Network:
    """Gains and strengths from features. Sessions are shared by all instances of one model file; thread-safe.

    Raises FileNotFoundError for a path without a file, TypeError for what is no path, ValueError for a file that is no
    such network.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        path = _find(model)
        try:
            is_now = path.stat()
            identity = (is_now.st_ino, is_now.st_size, is_now.st_mtime_ns)
            self._session = _session(path.resolve(), identity)
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise ValueError(f"{path} is no model written by 'percepnet export': {error}") from error
        inputs = {entry.name: entry for entry in self._session.get_inputs()}
        if set(inputs) != {"features", "state"}:
            raise ValueError(
                f"{path} takes {', '.join(inputs)}; allowed: features, state, "
                "which is what this version of 'percepnet export' writes"
            )
        taken = [(entry.shape, entry.type) for entry in (inputs["features"], inputs["state"])]
        match taken:
            case [([_, int(hops), int(width)], "tensor(float)"), ([_, int(size)], "tensor(float)")] if (
                width == FEATURES
            ):
                self._hops, self._size = hops, size
            case _:
                raise ValueError(
                    f"{path} takes features and state of {taken}; "
                    f"allowed: [streams, hops, {FEATURES}] and [streams, n] of tensor(float), hops and n given"
                )
        self._states = [f"state_{hop + 1}" for hop in range(self._hops)]
        wanted = {"gain", "strength", *self._states}
        if missing := wanted - {entry.name for entry in self._session.get_outputs()}:
            raise ValueError(
                f"{path} has no output {', '.join(sorted(missing))}; allowed: what 'percepnet export' writes"
            )

    def new_state(self, streams: int) -> Float:
        """State ``[streams, n]`` of calls that have not begun."""
        return np.zeros((streams, self._size), np.float32)

    def __call__(self, features: Float, state: Float) -> tuple[Float, Float, Float]:
        """Run ``features [streams, hops, FEATURES]``; returns gains, strengths ``[streams, hops, BANDS]``, state."""
        hops = features.shape[1]
        if hops == self._hops:
            return self._run(features, state, hops)
        gains, strengths = [], []
        for start in range(0, hops, self._hops):
            block = features[:, start : start + self._hops]
            heard = block.shape[1]
            if heard < self._hops:  # the answers to what is not there yet are dropped
                block = np.pad(block, ((0, 0), (0, self._hops - heard), (0, 0)))
            gain, strength, state = self._run(block, state, heard)
            gains.append(gain[:, :heard])
            strengths.append(strength[:, :heard])
        return np.concatenate(gains, axis=1), np.concatenate(strengths, axis=1), state

    def _run(self, features: Float, state: Float, heard: int) -> tuple[Float, Float, Float]:
        outputs = ["gain", "strength", self._states[heard - 1]]
        gain, strength, state = self._session.run(outputs, {"features": features, "state": state})
        return gain, strength, state
