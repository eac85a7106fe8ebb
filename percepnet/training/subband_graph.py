"""``subband.SubbandNet`` as an ONNX graph with an explicit state, in float32 or with eight-bit matrix products.

Of eight bits are the large products. What goes into them is no tanh's alone as in ``graph``, so its range is measured;
it is fixed all the same, so that a call's result depends on no other call.

Most of a run for few calls is what each node costs by itself, and for many what passes through memory between them;
so there are as few of both as may be. Rows are bands of calls: ``[B · BANDS, hops · C]`` is ``[B, BANDS, hops, C]``.
"""

from math import prod
from typing import Final

import numpy as np
import onnx

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.training.nodes import HOPS, Array, Graph, States
from percepnet.training.subband import REACH, SPAN, SQUEEZED, SubbandTopology

_REACH: Final = (4.0, 6.0)  # of what goes through the first block, and any other; one in 100 000 is beyond it


def states(topology: SubbandTopology) -> States:
    """Name → shape without the batch, of what the network carries from one call to the next, in this order."""
    blocks = {f"blocks.{n}": (BANDS, topology.channels) for n in range(topology.blocks)}
    return {"stem": (SPAN - 1, 2 * BANDS), **blocks, "context": (topology.context,)}


def build(topology: SubbandTopology, weights: dict[str, Array], *, quantised: bool) -> onnx.ModelProto:
    """The network of ``weights`` (float32, named as in ``subband.SubbandNet``) as an ONNX model."""
    graph = Graph(quantised)
    channels, context = topology.channels, topology.context
    shapes = states(topology)
    past = graph.split("state", {name: prod(shape) for name, shape in shapes.items()}, "past")
    after: dict[str, list[str]] = {}  # part of the state → its names after each hop

    def dense(x: str, name: str) -> str:
        bias = weights.get(f"{name}.bias")
        weight = weights[f"{name}.weight"].T
        return graph.dense(x, weight, weight[0] * 0 if bias is None else bias, name)

    def tanh(x: str) -> str:
        return graph.op("Tanh", [x], f"{x}_tanh")

    def add(x: str, y: str, out: str) -> str:
        return graph.op("Add", [x, y], out)

    def by_band(x: str, out: str) -> str:
        return graph.reshape(x, out, -1, BANDS, HOPS * channels)

    def to_all_bands(x: str, out: str) -> str:
        """``[B · hops, C]`` as ``[B, 1, hops · C]``."""
        return graph.reshape(x, out, -1, 1, HOPS * channels)

    features = graph.reshape("features", "features_flat", -1, FEATURES)
    x, after["stem"] = _stem(graph, past["stem"], weights)
    x = add(by_band(x, "stem_bands"), _embedding(graph, weights), "embedded")
    x = add(x, to_all_bands(tanh(dense(features, "overview")), "overview_hops"), "input")
    for n in range(topology.blocks):
        block, reach = f"blocks.{n}", _REACH[min(n, 1)]
        if n == topology.blocks - 1:
            told = tanh(dense(graph.reshape(x, "told_rows", -1, channels), "squeeze"))
            told = graph.reshape(told, "told_bands", -1, BANDS, HOPS, SQUEEZED)
            told = graph.op("Transpose", [told], "told_hops", perm=[0, 2, 1, 3])
            told = graph.quantise(graph.reshape(told, "told", -1, BANDS * SQUEEZED), "told_q")
            pooled = tanh(graph.product(told, weights["pool.weight"].T, weights["pool.bias"], "pool"))
            pooled = graph.quantise(graph.reshape(pooled, "pooled", -1, HOPS * context), "pooled_q")
            after["context"] = _gru(graph, pooled, past["context"], "context", weights)
            heard = graph.reshape(graph.join(after["context"], "context_hops"), "heard", -1, context)
            x = add(x, to_all_bands(dense(heard, "spread"), "spread_hops"), "informed")
        along = graph.constant(f"{block}.bands_w", weights[f"{block}.bands.weight"])
        across = graph.op("MatMul", [along, x], f"{block}.product")  # [B, BANDS, HOPS · C]
        bias = graph.constant(f"{block}.bands_b", weights[f"{block}.bands.bias"][:, None])
        across = graph.reshape(add(across, bias, f"{block}.across"), f"{block}.across_rows", -1, channels)
        rows = graph.reshape(x, f"{block}.rows", -1, channels)
        mixed = _mix(graph, rows, across, block, reach, weights)
        rows = add(rows, tanh(mixed), f"{block}.mixed")
        x = graph.reshape(rows, f"{block}.mixed_hops", -1, HOPS * channels)
        heard_q = graph.quantise(x, f"{block}.mixed_q", reach)
        held = graph.reshape(past[block], f"{block}.past", -1, channels)  # [B · BANDS, C]
        heard_hops = _gru(graph, heard_q, held, f"{block}.gru", weights, reach)
        after[block] = [
            graph.reshape(h, f"{block}.after{hop}", -1, BANDS * channels) for hop, h in enumerate(heard_hops)
        ]
        y = graph.join(heard_hops, f"{block}.hops")
        x = by_band(add(x, y, f"{block}.sum"), f"{block}.out")
    rows = graph.reshape(x, "out_rows", -1, channels)
    heads = np.concatenate([weights["gain.weight"], weights["strength.weight"]])
    logits = graph.op("MatMul", [rows, graph.constant("heads_w", heads.T)], "heads")
    logits = graph.reshape(logits, "heads_bands", -1, BANDS, HOPS, 2)
    logits = graph.op("Transpose", [logits], "heads_hops", perm=[0, 2, 3, 1])
    logits = graph.reshape(logits, "heads_flat", -1, HOPS, 2 * BANDS)
    weight = weights["gain_context.weight"].T
    offset = graph.dense(
        heard,
        np.concatenate([weight, 0 * weight], axis=1),
        np.concatenate([weights["gain_context.bias"], weights["strength_bias"]]),
        "heads_context",
    )
    logits = add(logits, graph.reshape(offset, "heads_offset", -1, HOPS, 2 * BANDS), "logits")
    answers = graph.op("Sigmoid", [logits], "answers")
    sizes = graph.integers(BANDS, BANDS)
    graph.nodes.append(onnx.helper.make_node("Split", [answers, sizes], ["gain", "strength"], axis=2))
    return graph.model(shapes, after, topology.as_dict())


def _stem(graph: Graph, past: str, weights: dict[str, Array]) -> tuple[str, list[str]]:
    """Convolution over hops and bands as one product, ``[B · BANDS, HOPS · C]``; and what to keep after each hop."""
    now = graph.op("Slice", ["features", *map(graph.integers, (0, 2 * BANDS, 2))], "levels_and_coherences")
    seen = SPAN - 1 + HOPS
    planes = graph.join([past, graph.reshape(now, "planes_now", -1, HOPS * 2 * BANDS)], "planes")
    after = [
        graph.slice(planes, 2 * BANDS * (hop + 1), 2 * BANDS * (hop + SPAN), f"planes_after{hop}")
        for hop in range(HOPS)
    ]
    bands = graph.reshape(planes, "planes_hops", -1, 2 * seen, BANDS)
    bands = graph.op("Transpose", [bands], "planes_bands", perm=[0, 2, 1])  # [B, BANDS, 2 · seen]
    bands = graph.op("Pad", [bands, graph.integers(0, 0, 0, 0, 1, 0)], "planes_padded")
    near = np.arange(BANDS)[:, None] + np.arange(-REACH, REACH + 1)
    near[(near < 0) | (near >= BANDS)] = BANDS  # the zeros
    patches = graph.op("Gather", [bands, graph.constant("near", near)], "patches", axis=1)
    patches = graph.reshape(patches, "patch_rows", -1, near.shape[1] * seen * 2)

    kernel = weights["stem.weight"]  # [C, planes, hops, bands]
    weight = np.zeros((near.shape[1], seen, 2, HOPS, len(kernel)), np.float32)
    for hop in range(HOPS):
        weight[:, hop : hop + SPAN, :, hop] = kernel.transpose(3, 2, 1, 0)
    rows = weight.reshape(-1, HOPS * len(kernel))
    x = graph.dense(patches, rows, np.tile(weights["stem.bias"], HOPS), "stem")
    return graph.op("Tanh", [x], "stem_out"), after


def _embedding(graph: Graph, weights: dict[str, Array]) -> str:
    return graph.constant("embedding", np.tile(weights["embedding"][:, 0], (1, HOPS)))


def _mix(graph: Graph, rows: str, across: str, block: str, reach: float, weights: dict[str, Array]) -> str:
    """The path along the bands before its tanh: of each row itself and what the other bands tell it."""
    weight, bias = weights[f"{block}.mix.weight"].T, weights[f"{block}.mix.bias"]
    if graph.quantised:
        both = [graph.quantise(x, f"{x}_q", reach) for x in (rows, across)]
        return graph.product(graph.join(both, f"{block}.both"), weight, bias, f"{block}.mix", reach=reach)
    own, others = np.split(weight, 2)  # to put them side by side costs more than two products
    mixed = graph.dense(rows, own, bias, f"{block}.mix")
    operands = [across, graph.constant(f"{block}.mix_others", others), mixed]
    return graph.op("Gemm", operands, f"{block}.mix_both")


def _gru(graph: Graph, x: str, h: str, name: str, weights: dict[str, Array], reach: float = 1) -> list[str]:
    """GRU over the hops: operand ``[rows, hops · in]`` in, ``[rows, units]`` after each hop out. h: the state before.

    Not as ``nodes.gru``: gates are products of input and state side by side, which leaves less to add and to cut.
    """
    of_x, of_h = weights[f"{name}.weight_ih_l0"].T, weights[f"{name}.weight_hh_l0"].T  # gates r, z, n
    bias_x, bias_h = weights[f"{name}.bias_ih_l0"], weights[f"{name}.bias_hh_l0"]
    units = len(of_h)
    both, bias = np.concatenate([of_x, of_h]), bias_x + bias_h
    new = slice(2 * units, None)
    after = []
    for hop, x_hop in enumerate(graph.split(x, {str(hop): len(of_x) for hop in range(HOPS)}, x).values()):

        def product(x: str, weight: Array, bias: Array, part: str, hop: int = hop) -> str:
            return graph.product(x, weight, bias, f"{name}_{part}", hop, reach)

        h_q = graph.quantise(h, f"{name}_h_q{hop}", reach)
        xh = graph.join([x_hop, h_q], f"{name}_xh{hop}")
        gates = {}
        for gate, part in (("r", slice(units)), ("z", slice(units, 2 * units))):
            gates[gate] = graph.op(
                "Sigmoid", [product(xh, both[:, part], bias[part], gate)], f"{name}_{gate}_gate{hop}"
            )
        held = product(h_q, of_h[:, new], bias_h[new], "held")
        n = graph.op("Mul", [gates["r"], held], f"{name}_reset{hop}")
        n = graph.op("Add", [product(x_hop, of_x[:, new], bias_x[new], "new"), n], f"{name}_n_sum{hop}")
        n = graph.op("Tanh", [n], f"{name}_n{hop}")
        keep = graph.op(
            "Mul", [gates["z"], graph.op("Sub", [h, n], f"{name}_change{hop}")], f"{name}_kept{hop}"
        )
        h = graph.op("Add", [n, keep], f"{name}_h{hop}")  # h' = n + z (h − n)
        after.append(h)
    return after
