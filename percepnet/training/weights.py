"""Weights as shipped: one ``.npz`` of 16-bit floats beside each model, from which training and export go on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from percepnet.training.subband import SubbandNet, SubbandTopology
from percepnet.training.topologies import AnyNetwork, AnyTopology
from percepnet.training.topologies import topology as topology_of


def save_weights(path: Path, topology: AnyTopology, weights: dict[str, Tensor], contrast: float) -> None:
    """Write float16 weights and their topology, and the contrast that they are exported with, which is not in them."""
    arrays = {name: value.detach().cpu().numpy().astype(np.float16) for name, value in weights.items()}
    sizes = {f"topology.{name}": np.array(value) for name, value in topology.as_dict().items()}
    np.savez(path, contrast=np.array(contrast), **arrays, **sizes)  # type: ignore[arg-type]  # names become keywords


def load_weights(path: Path) -> tuple[AnyTopology, dict[str, Tensor]]:
    """Topology and float32 weights: of an ``.npz`` as shipped, or the averaged ones of a training checkpoint.

    ``OSError`` where there is no file, ``ValueError`` where it is neither.
    """
    try:
        return _loaded(path)
    except OSError:
        raise
    except Exception as error:  # of a foreign file NumPy and PyTorch raise all kinds
        raise ValueError(f"{path}: allowed are checkpoint.pt of a run and shipped weights (.npz)") from error


def begin(model: AnyNetwork, path: Path) -> None:
    """Give ``model`` the weights of ``path``, those of a narrower one too; ValueError if they do not fit."""
    found, weights = load_weights(path)
    if found == model.topology:
        model.load_state_dict(weights)
    elif isinstance(model, SubbandNet) and isinstance(found, SubbandTopology) and model.topology.holds(found):
        model.grow(weights)
    else:
        raise ValueError(f"{path}: {found}; allowed: {model.topology}, or a narrower one of its kind")


def contrast_of(path: Path) -> float:
    """The contrast that goes with the weights of an ``.npz``; 1 for a checkpoint."""
    if path.suffix != ".npz":
        return 1.0
    with np.load(path) as file:
        return float(file["contrast"]) if "contrast" in file else 1.0


def _loaded(path: Path) -> tuple[AnyTopology, dict[str, Tensor]]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            sizes = {
                name.removeprefix("topology."): int(file[name])
                for name in file
                if name.startswith("topology.")
            }
            weights = {
                name: torch.from_numpy(file[name].astype(np.float32))
                for name in file
                if not name.startswith("topology.") and name != "contrast"
            }
        return topology_of(sizes), weights
    state = torch.load(path, map_location="cpu", weights_only=True)
    return topology_of(state["topology"]), state["average"]
