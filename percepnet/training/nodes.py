"""Building blocks of the networks' ONNX graphs: nodes, constants, dense layers, GRUs, and the interface of a model.

A model's inputs: ``features [B, 2, 70]`` and ``state [B, n]``, the parts of ``states`` side by side; outputs: ``gain``
and ``strength`` ``[B, 2, 34]``, ``state_1`` and ``state_2`` ``[B, n]`` after one hop and after both. B is dynamic. The
two hops of a packet are unrolled: a Scan makes the run for a single call a fifth dearer, an If around both forms costs
most of what that gains. Inside, nearly all is a matrix: ``[B, hops · width]`` or ``[B · hops, width]``, the same.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from percepnet.bands import BANDS
from percepnet.features import FEATURES

Array = NDArray[Any]
States = Mapping[str, tuple[int, ...]]  # name → shape without the batch, in the order of the state's columns

HOPS: Final = 2  # of a run: a packet of 20 ms

_OPSET: Final = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
_IR_VERSION: Final = 9
_ACTIVATION_RANGE: Final = 127  # of uint8 around 128
_WEIGHT_RANGE: Final = 63  # of int8: pairs of products must fit 16 bits on CPUs without VNNI


class Graph:
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

    def quantise(self, x: str, out: str, reach: float = 1) -> str:
        """x in [−reach, reach], at which it is clipped, as the operand of ``product`` of the same reach."""
        return self.op("QuantizeLinear", [x, *self._x_scale(reach)], out) if self.quantised else x

    def product(
        self, x: str, weight: Array, bias: Array, name: str, use: int | str = "", reach: float = 1
    ) -> str:
        """x·W + b for x of ``quantise``: eight-bit with a scale per output where the graph is quantised."""
        if not self.quantised:
            return self.dense(x, weight, bias, name, use)
        scale = (np.abs(weight).max(0) / _WEIGHT_RANGE).clip(1e-8).astype(np.float32)
        scale_x, zero_x = self._x_scale(reach)
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

    def _x_scale(self, reach: float) -> list[str]:
        return [
            self.constant(f"x_scale_{reach:g}", np.array(reach / _ACTIVATION_RANGE, np.float32)),
            self.constant("x_zero", np.array(128, np.uint8)),
        ]

    def model(
        self, states: States, after: Mapping[str, list[str]], sizes: Mapping[str, int]
    ) -> onnx.ModelProto:
        """The finished model, which has ``gain`` and ``strength``; ``after``: names of each state after each hop."""
        for hop in range(HOPS):
            self.join([after[name][hop] for name in states], f"state_{hop + 1}")
        size = sum(map(prod, states.values()))
        inputs = [_tensor("features", "B", HOPS, FEATURES), _tensor("state", "B", size)]
        outputs = [
            _tensor("gain", "B", HOPS, BANDS),
            _tensor("strength", "B", HOPS, BANDS),
            *(_tensor(f"state_{hop + 1}", "B", size) for hop in range(HOPS)),
        ]
        proto = helper.make_graph(self.nodes, "percepnet", inputs, outputs, list(self.constants.values()))
        model = helper.make_model(
            proto, opset_imports=_OPSET, ir_version=_IR_VERSION, producer_name="percepnet"
        )
        helper.set_model_props(model, {name: str(size) for name, size in sizes.items()})
        onnx.checker.check_model(model)
        return model


def _tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def gru(graph: Graph, x: str, h: str, h_q: str, name: str, weights: dict[str, Array]) -> list[str]:
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
