"""``subband.SubbandNet`` as an ONNX graph with an explicit state, in float32: half a megabyte needs no eight bits.

Rows are bands of calls: ``[B · BANDS · hops, C]`` is ``[B, BANDS, hops, C]``.
"""

from math import prod

import onnx

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.training import nodes
from percepnet.training.nodes import HOPS, Array, Graph, States
from percepnet.training.subband import REACH, SPAN, SQUEEZED, SubbandTopology


def states(topology: SubbandTopology) -> States:
    """Name → shape without the batch, of what the network carries from one call to the next, in this order."""
    blocks = {f"blocks.{n}": (BANDS, topology.channels) for n in range(topology.blocks)}
    return {"stem": (2, SPAN - 1, BANDS), **blocks, "context": (topology.context,)}


def build(topology: SubbandTopology, weights: dict[str, Array]) -> onnx.ModelProto:
    """The network of ``weights`` (float32, named as in ``subband.SubbandNet``) as an ONNX model."""
    graph = Graph(quantised=False)
    channels, context = topology.channels, topology.context
    shapes = states(topology)
    past = graph.split("state", {name: prod(shape) for name, shape in shapes.items()}, "past")
    after: dict[str, list[str]] = {}  # part of the state → its names after each hop

    def dense(x: str, name: str, use: str = "") -> str:
        bias = weights.get(f"{name}.bias")
        weight = weights[f"{name}.weight"].T
        return graph.dense(x, weight, weight[0] * 0 if bias is None else bias, name, use)

    def tanh(x: str) -> str:
        return graph.op("Tanh", [x], f"{x}_tanh")

    def add(x: str, y: str, out: str) -> str:
        return graph.op("Add", [x, y], out)

    def per_hop(x: str, out: str) -> str:
        """``[B · hops, C]`` for all bands."""
        return graph.reshape(x, out, -1, 1, HOPS, channels)

    features = graph.reshape("features", "features_flat", -1, FEATURES)
    x, after["stem"] = _stem(graph, past["stem"], weights)
    x = add(x, graph.constant("embedding", weights["embedding"]), "embedded")
    x = add(x, per_hop(tanh(dense(features, "overview")), "overview_hops"), "input")  # [B, BANDS, HOPS, C]
    for n in range(topology.blocks):
        block = f"blocks.{n}"
        if n == topology.blocks - 1:
            told = tanh(dense(graph.reshape(x, "told_rows", -1, channels), "squeeze"))
            told = graph.reshape(told, "told_bands", -1, BANDS, HOPS, SQUEEZED)
            told = graph.op("Transpose", [told], "told_hops", perm=[0, 2, 1, 3])
            pooled = tanh(dense(graph.reshape(told, "told", -1, BANDS * SQUEEZED), "pool"))
            after["context"] = nodes.gru(graph, pooled, past["context"], past["context"], "context", weights)
            heard = graph.reshape(graph.join(after["context"], "context_hops"), "heard", -1, context)
            x = add(x, per_hop(dense(heard, "spread"), "spread_hops"), "informed")
        across = [graph.constant(f"{block}.bands_w", weights[f"{block}.bands.weight"])]
        across.append(graph.reshape(x, f"{block}.by_band", -1, BANDS, HOPS * channels))
        bias = graph.constant(f"{block}.bands_b", weights[f"{block}.bands.bias"][:, None])
        mixed = add(graph.op("MatMul", across, f"{block}.product"), bias, f"{block}.across")
        rows = graph.reshape(x, f"{block}.rows", -1, channels)
        mixed = graph.join(
            [rows, graph.reshape(mixed, f"{block}.across_rows", -1, channels)], f"{block}.both"
        )
        rows = add(rows, tanh(dense(mixed, f"{block}.mix")), f"{block}.mixed")
        held = graph.reshape(past[block], f"{block}.past", -1, channels)  # [B · BANDS, C]
        hops = nodes.gru(graph, rows, held, held, f"{block}.gru", weights)
        after[block] = [
            graph.reshape(h, f"{block}.after{hop}", -1, BANDS * channels) for hop, h in enumerate(hops)
        ]
        y = graph.reshape(graph.join(hops, f"{block}.hops"), f"{block}.heard", -1, channels)
        x = graph.reshape(add(rows, y, f"{block}.sum"), f"{block}.out", -1, BANDS, HOPS, channels)
    rows = graph.reshape(x, "out_rows", -1, channels)
    told = graph.reshape(dense(heard, "gain_context"), "gain_told", -1, HOPS, BANDS)
    bias = graph.constant("strength_bias", weights["strength_bias"])
    for name, offset in (("gain", told), ("strength", bias)):
        logit = graph.reshape(dense(rows, name, "_of_bands"), f"{name}_bands", -1, BANDS, HOPS)
        logit = graph.op("Transpose", [logit], f"{name}_hops", perm=[0, 2, 1])
        graph.op("Sigmoid", [add(logit, offset, f"{name}_logit")], name)
    return graph.model(shapes, after, topology.as_dict())


def _stem(graph: Graph, past: str, weights: dict[str, Array]) -> tuple[str, list[str]]:
    """Convolution over hops and bands, ``[B, BANDS, HOPS, C]``; and the planes to keep after each hop."""
    wanted = [graph.integers(*values) for values in ((0,), (2 * BANDS,), (2,))]
    planes = graph.op("Slice", ["features", *wanted], "levels_and_coherences")
    planes = graph.reshape(planes, "planes_hops", -1, HOPS, 2, BANDS)
    planes = graph.op("Transpose", [planes], "planes_now", perm=[0, 2, 1, 3])
    before = graph.reshape(past, "planes_past", -1, 2, SPAN - 1, BANDS)
    planes = graph.op("Concat", [before, planes], "planes", axis=2)  # [B, 2, SPAN − 1 + HOPS, BANDS]
    after = []
    for hop in range(HOPS):
        part = [graph.integers(edge) for edge in (hop + 1, hop + SPAN, 2)]
        kept = graph.op("Slice", ["planes", *part], f"planes_kept{hop}")
        after.append(graph.reshape(kept, f"planes_after{hop}", -1, 2 * (SPAN - 1) * BANDS))
    inputs = [planes, graph.constant("stem_w", weights["stem.weight"])]
    inputs.append(graph.constant("stem_b", weights["stem.bias"]))
    x = graph.op("Conv", inputs, "stem", pads=[0, REACH, 0, REACH])
    return graph.op("Transpose", [graph.op("Tanh", [x], "stem_tanh")], "stem_out", perm=[0, 3, 2, 1]), after
