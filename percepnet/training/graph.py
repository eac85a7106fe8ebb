"""``model.PercepNet`` as an ONNX graph with an explicit state, in float32 or with eight-bit matrix products.

Written node by node and not traced: dynamic quantisation tools leave ONNX's own GRU in float, and they choose the scale
of an activation from the whole batch, so that one call would change what another hears. Here every activation that is
quantised is bounded by tanh, its scale is fixed, and int32 sums are exact: a call's result depends on no other call.
"""

from math import prod

import onnx

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.training import nodes
from percepnet.training.model import SPAN, STRENGTH_UNITS, Topology
from percepnet.training.nodes import HOPS, Array, Graph, States


def states(topology: Topology) -> States:
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


def build(topology: Topology, weights: dict[str, Array], *, quantised: bool) -> onnx.ModelProto:
    """The network of ``weights`` (float32, named as in ``model.PercepNet``) as an ONNX model."""
    graph = Graph(quantised)
    widths = {name: prod(shape) for name, shape in states(topology).items()}
    past = graph.split("state", widths, "past")
    past_q = graph.split(graph.quantise("state", "state_q"), widths, "past_q") if quantised else past
    after: dict[str, list[str]] = {}  # part of the state → its names after each hop

    def conv(x: str, name: str) -> str:
        x, after[name] = _conv(graph, x, past[name], name, weights)
        return x

    def gru(x: str, name: str) -> str:
        after[name] = nodes.gru(graph, x, past[name], past_q[name], name, weights)
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
    return graph.model(states(topology), after, topology.as_dict())


def _conv(graph: Graph, x: str, past: str, name: str, weights: dict[str, Array]) -> tuple[str, list[str]]:
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
