"""The network as an ONNX graph with explicit states, in float32 or with eight-bit matrix products.

Written node by node and not traced: dynamic quantisation tools leave ONNX's own GRU in float, and they choose the scale
of an activation from the whole batch, so that one call would change what another hears. Here every activation that is
quantised is bounded by tanh, its scale is fixed, and int32 sums are exact: a call's result depends on no other call.

Inputs: ``features [B, T, 70]`` and the seven states of ``states()``; outputs: ``gain``, ``strength`` ``[B, T, 34]`` and
each state's successor ``next_…``. B and T are dynamic.
"""

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.training.model import SPAN, STRENGTH_UNITS, Topology

Array = NDArray[Any]

_OPSET: Final = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
_IR_VERSION: Final = 9
_ACTIVATION_SCALE: Final = np.float32(1 / 127)  # tanh outputs in [−1, 1] as uint8 around 128
_WEIGHT_RANGE: Final = 63  # of int8: pairs of products must fit 16 bits on CPUs without VNNI


def states(topology: Topology) -> dict[str, tuple[int, ...]]:
    """Name → shape without the batch, of what the network carries from one call to the next."""
    units = topology.units
    return {
        "conv1_state": (SPAN[0] - 1, topology.dense),  # inputs of the hops before
        "conv2_state": (SPAN[1] - 1, units),
        "gru1_state": (units,),
        "gru2_state": (units,),
        "gru3_state": (units,),
        "gain_gru_state": (units,),
        "strength_gru_state": (STRENGTH_UNITS,),
    }


class _Graph:
    """Nodes and constants of a graph, or of the body of a Scan."""

    def __init__(self, prefix: str, quantised: bool) -> None:
        self.prefix, self.quantised = prefix, quantised
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        name = f"{self.prefix}{name}"
        if name not in {c.name for c in self.constants}:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, inputs: list[str], out: str, outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"{self.prefix}{out}" if outputs == 1 else f"{self.prefix}{out}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def dense(self, x: str, weight: Array, bias: Array, out: str) -> str:
        """x·W + b in float; weight ``[in, out]``."""
        product = self.op("MatMul", [x, self.constant(f"{out}_w", weight)], f"{out}_product")[0]
        return self.op("Add", [product, self.constant(f"{out}_b", bias)], out)[0]

    def product(self, x: str, weight: Array, bias: Array, out: str) -> str:
        """x·W + b for x in [−1, 1]: eight-bit with a scale per output where the graph is quantised."""
        if not self.quantised:
            return self.dense(x, weight, bias, out)
        scale = (np.abs(weight).max(0) / _WEIGHT_RANGE).clip(1e-8).astype(np.float32)
        scale_x = self.constant("x_scale", np.array(_ACTIVATION_SCALE))
        zero_x = self.constant("x_zero", np.array(128, np.uint8))
        integer = self.op("QuantizeLinear", [x, scale_x, zero_x], f"{out}_q")[0]
        inputs = [
            integer,
            self.constant(f"{out}_w", np.rint(weight / scale).astype(np.int8)),
            scale_x,
            self.constant(f"{out}_scale", scale),
            zero_x,
            "",
            self.constant(f"{out}_b", bias),
        ]
        return self.op("MatMulIntegerToFloat", inputs, out, domain="com.microsoft")[0]

    def slice(self, x: str, axis: int, start: int, end: int, out: str) -> str:
        bounds = [
            self.constant(f"int_{v}".replace("-", "m"), np.array([v], np.int64)) for v in (start, end, axis)
        ]
        return self.op("Slice", [x, *bounds], out)[0]


def build(topology: Topology, weights: dict[str, Array], *, quantised: bool) -> onnx.ModelProto:
    """The network of ``weights`` (float32, named as in ``model.PercepNet``) as an ONNX model."""
    graph = _Graph("", quantised)
    x = graph.dense("features", weights["dense.weight"].T, weights["dense.bias"], "dense")
    x = graph.op("Tanh", [x], "dense_out")[0]  # [B, T, dense]
    x = _conv(graph, x, "conv1", weights)  # [B, T, units]
    conv = _conv(graph, x, "conv2", weights)  # [B, T, units]
    h1 = _gru(graph, conv, "gru1", weights)
    h2 = _gru(graph, h1, "gru2", weights)
    h3 = _gru(graph, h2, "gru3", weights)
    hg = _gru(graph, h3, "gain_gru", weights)
    both = graph.op("Concat", [h3, conv], "strength_in", axis=2)[0]
    hs = _gru(graph, both, "strength_gru", weights)
    skip = graph.op("Concat", [conv, h1, h2, h3, hg], "gain_in", axis=2)[0]
    gain = graph.dense(skip, weights["gain.weight"].T, weights["gain.bias"], "gain_logit")
    strength = graph.dense(hs, weights["strength.weight"].T, weights["strength.bias"], "strength_logit")
    graph.op("Sigmoid", [gain], "gain")
    graph.op("Sigmoid", [strength], "strength")

    def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    shapes = states(topology)
    inputs = [tensor("features", "B", "T", FEATURES), *(tensor(n, "B", *s) for n, s in shapes.items())]
    outputs = [
        tensor("gain", "B", "T", BANDS),
        tensor("strength", "B", "T", BANDS),
        *(tensor(f"next_{n}", "B", *s) for n, s in shapes.items()),
    ]
    proto = helper.make_graph(graph.nodes, "percepnet", inputs, outputs, graph.constants)
    model = helper.make_model(proto, opset_imports=_OPSET, ir_version=_IR_VERSION, producer_name="percepnet")
    helper.set_model_props(model, {"dense": str(topology.dense), "units": str(topology.units)})
    onnx.checker.check_model(model)
    return model


def _conv(graph: _Graph, x: str, name: str, weights: dict[str, Array]) -> str:
    """Causal convolution over time as one matrix product on the joined hops; tanh."""
    kernel = weights[f"{name}.weight"]  # [out, in, taps]
    taps = kernel.shape[2]
    joined = graph.op("Concat", [f"{name}_state", x], f"{name}_history", axis=1)[0]  # [B, taps − 1 + T, in]
    graph.op("Identity", [graph.slice(joined, 1, 1 - taps, 2**31 - 1, f"{name}_kept")], f"next_{name}_state")
    shifted = [
        graph.slice(joined, 1, tap, tap - taps + 1 if tap < taps - 1 else 2**31 - 1, f"{name}_tap{tap}")
        for tap in range(taps)
    ]
    stacked = graph.op("Concat", shifted, f"{name}_in", axis=2)[0]  # [B, T, taps · in]
    flat = kernel.transpose(2, 1, 0).reshape(-1, kernel.shape[0])  # [taps · in, out]
    return graph.op("Tanh", [graph.product(stacked, flat, weights[f"{name}.bias"], name)], f"{name}_out")[0]


def _gru(graph: _Graph, x: str, name: str, weights: dict[str, Array]) -> str:
    """GRU over time, ``[B, T, in] → [B, T, units]``: the inputs' part at once, the recurrence in a Scan."""
    w_x, w_h = weights[f"{name}.weight_ih_l0"].T, weights[f"{name}.weight_hh_l0"].T  # gates r, z, n
    units = w_h.shape[0]
    gates_x = graph.product(x, w_x, weights[f"{name}.bias_ih_l0"], f"{name}_x")  # [B, T, 3 · units]

    body = _Graph(f"{name}_body_", graph.quantised)
    h, now = body.prefix + "h", body.prefix + "now"  # [B, units], [B, 3 · units]
    gates_h = body.product(h, w_h, weights[f"{name}.bias_hh_l0"], "gates")
    sizes = body.constant("sizes", np.array([2 * units, units], np.int64))
    now_rz, now_n = body.op("Split", [now, sizes], "now_part", 2, axis=1)
    past_rz, past_n = body.op("Split", [gates_h, sizes], "past_part", 2, axis=1)
    rz = body.op("Sigmoid", body.op("Add", [now_rz, past_rz], "rz_sum"), "rz")[0]
    half = body.constant("half", np.array([units, units], np.int64))
    r, z = body.op("Split", [rz, half], "gate", 2, axis=1)
    n = body.op("Add", [now_n, *body.op("Mul", [r, past_n], "reset")], "n_sum")
    n = body.op("Tanh", n, "n")
    keep = body.op("Mul", [z, *body.op("Sub", [h, *n], "change")], "kept")
    new = body.op("Add", [*n, *keep], "new")[0]  # h' = n + z (h − n)
    out = body.op("Identity", [new], "out")[0]

    def tensor(label: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(label, TensorProto.FLOAT, ["B", size])

    scan_body = helper.make_graph(
        body.nodes,
        f"{name}_step",
        [tensor(h, units), tensor(now, 3 * units)],
        [tensor(new, units), tensor(out, units)],
        body.constants,
    )
    sequence = f"{name}_out"
    graph.nodes.append(
        helper.make_node(
            "Scan",
            [f"{name}_state", gates_x],
            [f"next_{name}_state", sequence],
            body=scan_body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        )
    )
    return sequence
