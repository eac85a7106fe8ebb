"""The trained network in onnxruntime: one immutable session per model file, recurrent state per stream."""

from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from percepnet.features import FEATURES
from percepnet.framing import Float

State: TypeAlias = dict[str, Float]  # name → [streams, …]

MODELS: Final = Path(__file__).parent / "models"
DEFAULT_MODEL: Final = MODELS / "lite.onnx"


@cache
def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    # Calls are the parallelism: a pool of threads in each session would fight the other workers.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _find(model: str | Path | None) -> Path:
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

    Raises FileNotFoundError for a path without a file, ValueError for a file that is no such network.
    """

    def __init__(self, model: str | Path | None = None) -> None:
        path = _find(model)
        try:
            self._session = _session(path.resolve())
            inputs = {entry.name: entry.shape for entry in self._session.get_inputs()}
            features = inputs.pop("features")
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise ValueError(f"{path} is no model written by 'percepnet export': {error}") from error
        if features[-1] != FEATURES:
            raise ValueError(f"{path} takes {features[-1]} features; allowed: {FEATURES}")
        self._shapes: dict[str, list[int]] = {name: shape[1:] for name, shape in inputs.items()}
        self._outputs = ["gain", "strength", *(f"next_{name}" for name in self._shapes)]
        if missing := set(self._outputs) - {entry.name for entry in self._session.get_outputs()}:
            raise ValueError(
                f"{path} has no output {', '.join(sorted(missing))}; allowed: what 'percepnet export' writes"
            )

    def new_state(self, streams: int) -> State:
        """State of ``streams`` calls that have not begun."""
        return {name: np.zeros((streams, *shape), np.float32) for name, shape in self._shapes.items()}

    def __call__(self, features: Float, state: State) -> tuple[Float, Float, State]:
        """Run ``features [streams, hops, FEATURES]``; returns gains, strengths ``[streams, hops, BANDS]``, state."""
        gain, strength, *new = self._session.run(self._outputs, {"features": features, **state})
        return gain, strength, dict(zip(self._shapes, new, strict=True))


def rows(state: State, index: NDArray[np.int64]) -> State:
    """A copy of some streams."""
    return {name: array[index] for name, array in state.items()}


def put(state: State, index: NDArray[np.int64], part: State) -> None:
    """Write back what ``rows`` gave."""
    for name, array in state.items():
        array[index] = part[name]
