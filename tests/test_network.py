"""PyTorch, the float graph and the eight-bit graph are one network; a call's answer depends on no other call."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from percepnet.cli import main
from percepnet.features import FEATURES
from percepnet.framing import Float
from percepnet.network import MODELS, Network
from percepnet.training.export import FLOAT_TOLERANCE, INT8_TOLERANCE, parity
from percepnet.training.subband import SubbandTopology
from percepnet.training.topologies import TOPOLOGIES, build, network, parts, states
from percepnet.training.weights import begin, contrast_of, load_weights, save_weights


def features(streams: int, hops: int) -> Float:
    return np.random.default_rng(0).standard_normal((streams, hops, FEATURES)).astype(np.float32)


def exported(name: str, folder: Path, *, quantised: bool = True) -> Network:
    """An untrained network of that topology."""
    torch.manual_seed(0)
    weights = {key: value.numpy() for key, value in network(TOPOLOGIES[name]).state_dict().items()}
    onnx.save(build(TOPOLOGIES[name], weights, quantised=quantised), folder / f"{name}.onnx")
    return Network(folder / f"{name}.onnx")


@pytest.mark.parametrize("name", ["full", "subband"])
def test_topologies_export_and_agree_with_pytorch(name: str, tmp_path: Path) -> None:
    topology = TOPOLOGIES[name]
    torch.manual_seed(0)
    weights = network(topology).state_dict()
    arrays = {key: value.numpy() for key, value in weights.items()}
    for quantised, tolerance, index in ((False, FLOAT_TOLERANCE, 0), (True, INT8_TOLERANCE, 1)):
        path = tmp_path / f"{name}{quantised}.onnx"
        onnx.save(build(topology, arrays, quantised=quantised), path)
        assert parity(path, topology, weights)[index] < tolerance


@pytest.mark.parametrize("name", ["toy", "subband"])
def test_training_may_cut_a_call_anywhere_and_go_on_with_the_state(name: str) -> None:
    torch.manual_seed(0)
    model, x = network(TOPOLOGIES[name]), torch.from_numpy(features(3, 60))
    with torch.no_grad():
        gain, strength, after = model(x)
        pieces, state = [], None
        for piece in x.split([1, 2, 3, 20, 34], dim=1):
            *answers, state = model(piece, state)
            pieces.append(answers)
    for whole, cut in zip((gain, strength), zip(*pieces, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(cut, 1), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(state, after, atol=1e-6, rtol=0)


def test_a_grown_network_answers_as_the_narrower_one_and_what_is_new_learns() -> None:
    torch.manual_seed(0)
    small = network(SubbandTopology(channels=16, context=24))
    large = network(SubbandTopology(channels=32, context=32))
    assert large.topology.holds(small.topology)
    assert not small.topology.holds(large.topology)
    large.grow(small.state_dict())
    x = torch.from_numpy(features(2, 30))
    for narrow, wide in zip(small(x)[:2], large(x)[:2], strict=True):
        torch.testing.assert_close(wide, narrow, atol=1e-6, rtol=0)
    large(x)[0].sum().backward()
    assert large.gain.weight.grad[:, 16:].abs().min() > 0


def test_the_mean_with_what_a_run_began_from_is_halfway(tmp_path: Path) -> None:
    torch.manual_seed(0)
    large = network(SubbandTopology(channels=32, context=32))  # as ``percepnet train`` begins
    small = network(SubbandTopology(channels=16, context=24)).state_dict()
    save_weights(tmp_path / "small.npz", SubbandTopology(channels=16, context=24), small, 1.15)
    begin(large, tmp_path / "small.npz")
    began = {name: value.clone() for name, value in large.state_dict().items()}
    learnt = {name: value + 0.02 for name, value in began.items()}
    save_weights(tmp_path / "run.npz", large.topology, learnt, 1.0)
    mean = [tmp_path / "run.npz", tmp_path / "mean", "--mean-with", tmp_path / "small.npz"]
    assert main(["export", *map(str, mean)]) == 0
    before = (tmp_path / "small.npz").read_bytes()
    onto = [tmp_path / "run.npz", tmp_path / "small", "--mean-with", tmp_path / "small.npz"]
    assert main(["export", *map(str, onto)]) == 1  # which would have no weights left that it began from
    assert (tmp_path / "small.npz").read_bytes() == before
    _, weights = load_weights(tmp_path / "mean.npz")
    for name, value in weights.items():
        torch.testing.assert_close(value, began[name] + 0.01, atol=1e-4, rtol=1e-3)  # 16 bits


def test_sizes_are_those_published() -> None:
    count = {name: sum(p.numel() for p in network(t).parameters()) for name, t in TOPOLOGIES.items()}
    assert count["full"] == pytest.approx(7.96e6, rel=0.005)
    assert count["subband"] == pytest.approx(518e3, rel=0.005)
    assert count["lite"] == pytest.approx(336e3, rel=0.005)


def test_shipped_model_is_its_shipped_weights() -> None:
    for path in sorted(MODELS.glob("*.onnx")):
        topology, weights = load_weights(path.with_suffix(".npz"))
        assert parity(path, topology, weights)[1] < INT8_TOLERANCE


@pytest.mark.parametrize("name", ["toy", "subband"])
def test_eight_bit_answers_do_not_depend_on_the_batch_or_the_chunks(name: str, tmp_path: Path) -> None:
    network, x = exported(name, tmp_path), features(5, 40)
    x[0] *= 100  # a loud neighbour must not change anybody's quantisation
    gain, strength, state = network(x, network.new_state(5))
    for row, sizes in ((1, [2] * 20), (2, [1] * 40), (3, [3, 5, 7, 25]), (4, [39, 1])):
        alone, hop = network.new_state(1), 0
        for size in sizes:
            g, r, alone = network(x[row : row + 1, hop : hop + size], alone)
            np.testing.assert_array_equal(g[0], gain[row, hop : hop + size])
            np.testing.assert_array_equal(r[0], strength[row, hop : hop + size])
            hop += size
        np.testing.assert_array_equal(alone[0], state[row])


def test_answers_in_float_do_not_depend_on_the_batch_or_the_chunks(tmp_path: Path) -> None:
    model, x = exported("subband", tmp_path, quantised=False), features(5, 40)
    gain, strength, state = model(x, model.new_state(5))
    for row, sizes in ((0, [40]), (1, [2] * 20), (2, [1] * 40), (3, [3, 5, 7, 25])):
        alone, hop = model.new_state(1), 0
        for size in sizes:
            g, r, alone = model(x[row : row + 1, hop : hop + size], alone)
            np.testing.assert_allclose(g[0], gain[row, hop : hop + size], rtol=0, atol=1e-5)
            np.testing.assert_allclose(r[0], strength[row, hop : hop + size], rtol=0, atol=1e-5)
            hop += size
        np.testing.assert_allclose(alone[0], state[row], rtol=0, atol=1e-5)


def test_the_state_is_a_row_for_each_stream_of_named_parts() -> None:
    topology, _ = load_weights(MODELS / "subband.npz")
    found = parts(topology, Network("subband").new_state(3))
    assert {name: array.shape[1:] for name, array in found.items()} == states(topology)


def save_foreign(path: Path, inputs: dict[str, list[str | int]], kind: int = TensorProto.FLOAT) -> None:
    """A model that takes these, by name and shape."""
    taken = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    output = helper.make_tensor_value_info("gain", kind, None)
    nodes = [helper.make_node("Identity", ["features"], ["gain"])]
    graph = helper.make_graph(nodes, "foreign", taken, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.mark.parametrize("taken", ["features", "features, conv1_state"])
def test_a_model_with_other_inputs_is_refused_with_what_it_takes(taken: str, tmp_path: Path) -> None:
    save_foreign(tmp_path / "a.onnx", {name: ["B", "T", 70] for name in taken.split(", ")})
    with pytest.raises(ValueError, match=rf"a\.onnx takes {taken}; allowed: features, state"):
        Network(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("features", "state", "kind"),
    [
        (["B", "T", 70], ["B", 9], TensorProto.FLOAT),
        (["B", 2, 71], ["B", 9], TensorProto.FLOAT),
        (["B", 70], ["B", 9], TensorProto.FLOAT),
        (["B", 2, 70], ["B", "N"], TensorProto.FLOAT),
        (["B", 2, 70], ["B", 9], TensorProto.DOUBLE),
    ],
)
def test_a_model_of_other_shapes_or_numbers_is_refused_with_those(
    features: list[str | int], state: list[str | int], kind: int, tmp_path: Path
) -> None:
    save_foreign(tmp_path / "a.onnx", {"features": features, "state": state}, kind)
    with pytest.raises(
        ValueError, match=r"a\.onnx takes features and state of .*; allowed: \[streams, hops, 70\]"
    ):
        Network(tmp_path / "a.onnx")


def test_one_session_serves_all() -> None:
    assert Network()._session is Network()._session


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    sizes = []
    for number, name in enumerate(("toy", "subband")):
        exported(name, tmp_path)
        (tmp_path / f"{name}.onnx").replace(tmp_path / "mine.onnx")
        os.utime(tmp_path / "mine.onnx", (number, number))
        sizes.append(Network(tmp_path / "mine.onnx").new_state(1).shape[1])
    assert sizes == [sum(map(math.prod, states(TOPOLOGIES[name]).values())) for name in ("toy", "subband")]


def test_weights_survive_the_file_to_16_bits(tmp_path: Path) -> None:
    weights = network(TOPOLOGIES["toy"]).state_dict()
    save_weights(tmp_path / "toy.npz", TOPOLOGIES["toy"], weights, 1.15)
    topology, loaded = load_weights(tmp_path / "toy.npz")
    assert topology == TOPOLOGIES["toy"]
    assert contrast_of(tmp_path / "toy.npz") == 1.15
    assert loaded.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(loaded[name], value, atol=1e-3, rtol=1e-3)


def test_the_runtime_tells_nobody_of_its_use_and_keeps_no_id_of_the_machine(tmp_path: Path) -> None:
    # CI would switch it off by itself.
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment = {**kept, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    script = "from percepnet.network import Network; Network()"
    subprocess.run([sys.executable, "-B", "-c", script], env=environment, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []
