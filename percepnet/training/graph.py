"""The network as an ONNX graph with an explicit state, in float32 or with eight-bit matrix products.

Written node by node and not traced: dynamic quantisation tools leave ONNX's own GRU in float, and they choose the scale
of an activation from the whole batch, so that one call would change what another hears. Here every activation that is
quantised is bounded by tanh, its scale is fixed, and int32 sums are exact: a call's result depends on no other call.

Inputs: ``features [B, 2, 70]`` and ``state [B, n]``, the parts of ``states()`` side by side; outputs: ``gain`` and
``strength`` ``[B, 2, 34]``, ``state_1`` and ``state_2`` ``[B, n]`` after one hop and after both. B is dynamic. The two
hops of a packet are unrolled: a Scan makes the run for a single call a fifth dearer, an If around both forms costs
most of what that gains. Inside, everything is a matrix: ``[B, hops · width]`` or ``[B · hops, width]``, the same.
"""

from itertools import accumulate
from math import prod
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.training.model import SPAN, STRENGTH_UNITS, Topology

Array = NDArray[Any]

HOPS: Final = 2  # of a run: a packet of 20 ms

_OPSET: Final = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
_IR_VERSION: Final = 9
_ACTIVATION_SCALE: Final = np.float32(1 / 127)  # tanh outputs in [−1, 1] as uint8 around 128
_WEIGHT_RANGE: Final = 63  # of int8: pairs of products must fit 16 bits on CPUs without VNNI


def states(topology: Topology) -> dict[str, tuple[int, ...]]:
    """Name → shape without the batch, of what the network carries from one call to the next, in this order."""
    units = topology.units
    return {
        "conv1": (SPAN[0] - 1, topology.dense),  # inputs of the hops before
        "conv2": (SPAN[1] - 1, units),
        "gru1": (units,),
        "gru2": (units,),
        "gru3": (units,),
        "gain_gru": (units,),
        "strength_gru": (STRENGTH_UNITS,),
    }


def parts(topology: Topology, state: Array) -> dict[str, Array]:
    """The parts ``[B, …]`` of a ``state [B, n]`` by name."""
    shapes = states(topology)
    cuts = np.split(state, list(accumulate(prod(shape) for shape in shapes.values()))[:-1], axis=1)
    return {name: cut.reshape(-1, *shape) for (name, shape), cut in zip(shapes.items(), cuts, strict=True)}


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self, quantised: bool) -> None:
        self.quantised = quantised
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Array) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def integers(self, *values: int) -> str:
        name = "_".join(["int", *map(str, values)]).replace("-", "m")
        return self.constant(name, np.array(values, np.int64))

    def op(self, kind: str, inputs: list[str], out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def split(self, x: str, widths: dict[str, int], out: str) -> dict[str, str]:
        """x ``[B, …]`` cut into named columns of these widths."""
        names = {part: f"{out}_{part}" for part in widths}
        sizes = self.integers(*widths.values())
        self.nodes.append(helper.make_node("Split", [x, sizes], list(names.values()), axis=1))
        return names

    def slice(self, x: str, start: int, end: int, out: str) -> str:
        return self.op("Slice", [x, self.integers(start), self.integers(end), self.integers(1)], out)

    def join(self, inputs: list[str], out: str) -> str:
        return self.op("Concat", inputs, out, axis=1)

    def reshape(self, x: str, out: str, *shape: int) -> str:
        return self.op("Reshape", [x, self.integers(*shape)], out)

    def dense(self, x: str, weight: Array, bias: Array, name: str, use: int | str = "") -> str:
        """x·W + b in float; weight ``[in, out]``. Uses of one name share the constants."""
        inputs = [x, self.constant(f"{name}_w", weight), self.constant(f"{name}_b", bias)]
        return self.op("Gemm", inputs, f"{name}{use}")

    def quantise(self, x: str, out: str) -> str:
        """x in [−1, 1] as the operand of ``product``."""
        return self.op("QuantizeLinear", [x, *self._x_scale()], out) if self.quantised else x

    def product(self, x: str, weight: Array, bias: Array, name: str, use: int | str = "") -> str:
        """x·W + b for x of ``quantise``: eight-bit with a scale per output where the graph is quantised."""
        if not self.quantised:
            return self.dense(x, weight, bias, name, use)
        scale = (np.abs(weight).max(0) / _WEIGHT_RANGE).clip(1e-8).astype(np.float32)
        scale_x, zero_x = self._x_scale()
        inputs = [
            x,
            self.constant(f"{name}_w", np.rint(weight / scale).astype(np.int8)),
            scale_x,
            self.constant(f"{name}_scale", scale),
            zero_x,
            "",
            self.constant(f"{name}_b", bias),
        ]
        return self.op("MatMulIntegerToFloat", inputs, f"{name}{use}", domain="com.microsoft")

    def _x_scale(self) -> list[str]:
        return [
            self.constant("x_scale", np.array(_ACTIVATION_SCALE)),
            self.constant("x_zero", np.array(128, np.uint8)),
        ]


def build(topology: Topology, weights: dict[str, Array], *, quantised: bool) -> onnx.ModelProto:
    """The network of ``weights`` (float32, named as in ``model.PercepNet``) as an ONNX model."""
    graph = _Graph(quantised)
    widths = {name: prod(shape) for name, shape in states(topology).items()}
    past = graph.split("state", widths, "past")
    past_q = graph.split(graph.quantise("state", "state_q"), widths, "past_q") if quantised else past
    after: dict[str, list[str]] = {}  # part of the state → its names after each hop

    def conv(x: str, name: str) -> str:
        x, after[name] = _conv(graph, x, past[name], name, weights)
        return x

    def gru(x: str, name: str) -> str:
        after[name] = _gru(graph, x, past[name], past_q[name], name, weights)
        return graph.reshape(graph.join(after[name], f"{name}_hops"), f"{name}_out", -1, widths[name])

    x = graph.reshape("features", "features_flat", -1, FEATURES)
    x = graph.dense(x, weights["dense.weight"].T, weights["dense.bias"], "dense")
    c = conv(conv(graph.op("Tanh", [x], "dense_out"), "conv1"), "conv2")  # [B · hops, units] from here on
    c_q = graph.quantise(c, "conv2_out_q")
    h1 = gru(c_q, "gru1")
    h2 = gru(graph.quantise(h1, "gru1_out_q"), "gru2")
    h3 = gru(graph.quantise(h2, "gru2_out_q"), "gru3")
    h3_q = graph.quantise(h3, "gru3_out_q")
    hg = gru(h3_q, "gain_gru")
    hs = gru(graph.join([h3_q, c_q], "strength_in"), "strength_gru")
    for x, name in ((graph.join([c, h1, h2, h3, hg], "gain_in"), "gain"), (hs, "strength")):
        x = graph.dense(x, weights[f"{name}.weight"].T, weights[f"{name}.bias"], f"{name}_logit")
        graph.reshape(graph.op("Sigmoid", [x], f"{name}_flat"), name, -1, HOPS, BANDS)
    for hop in range(HOPS):
        graph.join([after[name][hop] for name in widths], f"state_{hop + 1}")

    def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    size = sum(widths.values())
    inputs = [tensor("features", "B", HOPS, FEATURES), tensor("state", "B", size)]
    outputs = [
        tensor("gain", "B", HOPS, BANDS),
        tensor("strength", "B", HOPS, BANDS),
        *(tensor(f"state_{hop + 1}", "B", size) for hop in range(HOPS)),
    ]
    proto = helper.make_graph(graph.nodes, "percepnet", inputs, outputs, list(graph.constants.values()))
    model = helper.make_model(proto, opset_imports=_OPSET, ir_version=_IR_VERSION, producer_name="percepnet")
    helper.set_model_props(model, {"dense": str(topology.dense), "units": str(topology.units)})
    onnx.checker.check_model(model)
    return model


def _conv(graph: _Graph, x: str, past: str, name: str, weights: dict[str, Array]) -> tuple[str, list[str]]:
    """Causal convolution over time as one matrix product on the joined hops; tanh. x ``[B · hops, in]``.

    Returns the output ``[B · hops, out]`` and the inputs to keep after each hop, ``[B, (taps − 1) · in]``.
    """
    kernel = weights[f"{name}.weight"]
    out, width, taps = kernel.shape
    x = graph.reshape(x, f"{name}_x", -1, HOPS * width)
    history = graph.join([past, x], f"{name}_history")  # [B, (taps − 1 + hops) · in], the oldest first
    history_q = graph.quantise(history, f"{name}_history_q")
    windows = [
        graph.slice(history_q, hop * width, (hop + taps) * width, f"{name}_window{hop}")
        for hop in range(HOPS)
    ]
    after = [
        graph.slice(history, (hop + 1) * width, (hop + taps) * width, f"{name}_after{hop}")
        for hop in range(HOPS)
    ]
    x = graph.reshape(graph.join(windows, f"{name}_windows"), f"{name}_in", -1, taps * width)
    flat = kernel.transpose(2, 1, 0).reshape(taps * width, out)
    x = graph.product(x, flat, weights[f"{name}.bias"], f"{name}_sum")
    return graph.op("Tanh", [x], f"{name}_out"), after


def _gru(graph: _Graph, x: str, h: str, h_q: str, name: str, weights: dict[str, Array]) -> list[str]:
    """GRU over the hops: the input's part of all at once, the recurrence hop by hop.

    x: operand ``[B · hops, in]``, h: state ``[B, units]``, h_q: the same as operand; returns h after each hop.
    """
    w_x, w_h = weights[f"{name}.weight_ih_l0"].T, weights[f"{name}.weight_hh_l0"].T  # gates r, z, n
    units = w_h.shape[0]
    gates = {"rz": 2 * units, "n": units}
    x = graph.product(x, w_x, weights[f"{name}.bias_ih_l0"], f"{name}_x")  # [B · hops, 3 · units]
    x = graph.reshape(x, f"{name}_x_hops", -1, 3 * units * HOPS)
    parts_x = {f"{gate}{hop}": width for hop in range(HOPS) for gate, width in gates.items()}
    now = graph.split(x, parts_x, f"{name}_x")
    after = []
    for hop in range(HOPS):
        step = f"{name}_{hop}_"
        if hop:
            h_q = graph.quantise(h, f"{step}h_q")
        past = graph.product(h_q, w_h, weights[f"{name}.bias_hh_l0"], f"{name}_h", hop)
        past_gate = graph.split(past, gates, f"{step}past")
        rz = graph.op("Add", [now[f"rz{hop}"], past_gate["rz"]], f"{step}rz_sum")
        gate = graph.split(graph.op("Sigmoid", [rz], f"{step}rz"), {"r": units, "z": units}, f"{step}gate")
        n = graph.op("Mul", [gate["r"], past_gate["n"]], f"{step}reset")
        n = graph.op("Tanh", [graph.op("Add", [now[f"n{hop}"], n], f"{step}n_sum")], f"{step}n")
        keep = graph.op("Mul", [gate["z"], graph.op("Sub", [h, n], f"{step}change")], f"{step}kept")
        h = graph.op("Add", [n, keep], f"{step}h")  # h' = n + z (h − n)
        after.append(h)
    return after
