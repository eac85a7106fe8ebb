"""``percepnet export``: from a checkpoint to the ``.onnx`` files that ship, with a parity check of every output."""

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch

from percepnet.cli.options import path_of, within
from percepnet.features import FEATURES
from percepnet.framing import Float
from percepnet.network import Network
from percepnet.training.topologies import AnyTopology, build, network, parts, states
from percepnet.training.weights import begin, contrast_of, load_weights, save_weights

FLOAT_TOLERANCE: Final = 1e-4  # largest difference of a gain, strength or state from PyTorch's
INT8_TOLERANCE: Final = 0.03  # root of the mean square difference of gains and strengths, likewise
_HOPS: Final = 400
_GAIN: Final = ("gain.", "gain_context.")  # what the sigmoid of the gains is of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``percepnet export``."""
    parser.add_argument("weights", type=path_of, help="a run's checkpoint.pt, or shipped weights (.npz)")
    parser.add_argument(
        "out",
        type=path_of,
        help="stem of the files: OUT.onnx of eight bits, OUT.float.onnx and OUT.npz",
    )
    parser.add_argument(
        "--contrast",
        type=within(float, 0.5, 2),
        help="factor on what goes into the sigmoid of the gains, 0.5 to 2: more of it takes more away where the "
        "network doubts, and less where it does not (default: that of shipped weights, else 1)",
    )
    parser.add_argument(
        "--mean-with",
        type=path_of,
        metavar="WEIGHTS",
        help="export the mean of the weights and of those that their run began from, which keeps more of what these "
        "could (narrower ones grow as they did for that run)",
    )


def run(args: argparse.Namespace) -> int:
    """Export and check; returns the exit code."""
    shipped = args.out.with_name(f"{args.out.name}.npz")
    if shipped.resolve() in [weights.resolve() for weights in (args.weights, args.mean_with) if weights]:
        raise ValueError(f"{shipped} would replace the weights that it is made of; name another OUT")
    topology, weights = load_weights(args.weights)
    if args.mean_with:
        weights = _mean(topology, weights, args.mean_with)
    contrast = args.contrast or contrast_of(args.weights)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(shipped, topology, weights, contrast)
    topology, weights = load_weights(shipped)  # 16-bit
    weights |= {name: contrast * value for name, value in weights.items() if name.startswith(_GAIN)}
    arrays = {name: value.numpy() for name, value in weights.items()}
    for quantised, suffix in ((False, ".float.onnx"), (True, ".onnx")):
        path = args.out.with_name(args.out.name + suffix)
        onnx.save(build(topology, arrays, quantised=quantised), path)
        worst, rms = parity(path, topology, weights)
        print(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, against PyTorch: worst {worst:.2g}, rms {rms:.2g}"
        )
        if (rms > INT8_TOLERANCE) if quantised else (worst > FLOAT_TOLERANCE):
            path.unlink()
            raise RuntimeError(f"{path} differs from PyTorch by more than allowed; removed")
    return 0


def _mean(topology: AnyTopology, weights: dict[str, torch.Tensor], began: Path) -> dict[str, torch.Tensor]:
    """Halfway between both, which is often better than either (Wortsman et al. 2022)."""
    torch.manual_seed(0)  # as ``train`` does, for what growing leaves random
    model = network(topology)
    begin(model, began)
    return {name: (value + weights[name]) / 2 for name, value in model.state_dict().items()}


def parity(path: Path, topology: AnyTopology, weights: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Largest and root-mean-square difference of every output from PyTorch's, over features that move like speech's.

    The features run through onnxruntime two hops at a time, as in a call, and through PyTorch at once. The largest is
    over gains, strengths and the states at the end; the root of the mean square over gains and strengths.
    """
    rng = np.random.default_rng(0)
    steps = rng.standard_normal((2, _HOPS, FEATURES)).astype(np.float32)
    features = np.empty_like(steps)
    features[:, 0] = steps[:, 0]
    for hop in range(1, _HOPS):
        features[:, hop] = 0.9 * features[:, hop - 1] + 0.4 * steps[:, hop]

    wanted, wanted_state = _in_pytorch(features, topology, weights)
    network = Network(path)
    state, answers = network.new_state(2), []
    for hop in range(0, _HOPS, 2):
        gain, strength, state = network(features[:, hop : hop + 2], state)
        answers.append(np.concatenate([gain, strength], -1))
    error = np.concatenate(answers, 1) - wanted
    found = parts(topology, state)
    worst = max(
        np.abs(error).max(), *(np.abs(found[name] - wanted_state[name]).max() for name in wanted_state)
    )
    return float(worst), float(np.sqrt(np.mean(np.square(error))))


def _in_pytorch(
    features: Float, topology: AnyTopology, weights: dict[str, torch.Tensor]
) -> tuple[Float, dict[str, Float]]:
    """Gains and strengths ``[B, T, 68]`` side by side, and the states after the last hop."""
    model = network(topology)
    model.load_state_dict(weights)
    with torch.no_grad():
        gain, strength, after = model(torch.from_numpy(features))
    named = {name: part.numpy() for name, part in zip(states(topology), after, strict=True)}
    return torch.cat([gain, strength], -1).numpy(), named
