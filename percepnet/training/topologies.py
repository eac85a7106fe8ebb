"""The networks there are: which sizes belong to which."""

from collections.abc import Mapping
from itertools import accumulate
from math import prod
from typing import Final, TypeAlias

import numpy as np
import onnx

from percepnet.training import graph, subband_graph
from percepnet.training.model import PercepNet, Topology
from percepnet.training.nodes import Array, States
from percepnet.training.subband import SubbandNet, SubbandTopology

AnyTopology: TypeAlias = Topology | SubbandTopology
AnyNetwork: TypeAlias = PercepNet | SubbandNet

TOPOLOGIES: Final[Mapping[str, AnyTopology]] = {
    "full": Topology(),
    "subband": SubbandTopology(),
    "lite": SubbandTopology(channels=64, context=160),
    "toy": Topology(dense=32, units=32),
}


def network(topology: AnyTopology) -> AnyNetwork:
    """A network of these sizes, untrained."""
    return PercepNet(topology) if isinstance(topology, Topology) else SubbandNet(topology)


def topology(sizes: Mapping[str, int]) -> AnyTopology:
    """What ``as_dict()`` gave."""
    return Topology(**sizes) if "units" in sizes else SubbandTopology(**sizes)


def states(topology: AnyTopology) -> States:
    """Name → shape without the batch, of what the network carries from one call to the next, in this order."""
    return graph.states(topology) if isinstance(topology, Topology) else subband_graph.states(topology)


def parts(topology: AnyTopology, state: Array) -> dict[str, Array]:
    """The parts ``[B, …]`` of a ``state [B, n]`` by name."""
    shapes = states(topology)
    cuts = np.split(state, list(accumulate(prod(shape) for shape in shapes.values()))[:-1], axis=1)
    return {name: cut.reshape(-1, *shape) for (name, shape), cut in zip(shapes.items(), cuts, strict=True)}


def build(topology: AnyTopology, weights: dict[str, Array], *, quantised: bool) -> onnx.ModelProto:
    """The network of ``weights`` as an ONNX model, see ``nodes``."""
    if isinstance(topology, Topology):
        return graph.build(topology, weights, quantised=quantised)
    return subband_graph.build(topology, weights, quantised=quantised)
