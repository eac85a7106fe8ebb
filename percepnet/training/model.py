"""The network: 70 features per hop in, 34 gains and 34 strengths out. Runs causally; the caller's features look ahead.

Shapes are ``[B, T, C]``: mixtures, hops, channels.
"""

from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import Tensor, nn

from percepnet.bands import BANDS
from percepnet.features import FEATURES

STRENGTH_UNITS: Final = 128
SPAN: Final = (5, 3)  # hops that the two convolutions see

State = list[Tensor]  # of a batch of calls, ``[B, …]`` each, between one forward() and the next


@dataclass(frozen=True)
class Topology:
    """Sizes of one member of the family."""

    dense: int = 128
    units: int = 512  # of both convolutions and of each GRU but the strength head's

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class PercepNet(nn.Module):
    """FC, two convolutions over time, three GRUs, a gain head and a strength head (P20 section 4)."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.topology = topology
        dense, units = topology.dense, topology.units
        self.dense = nn.Linear(FEATURES, dense)
        self.conv1 = nn.Conv1d(dense, units, SPAN[0])
        self.conv2 = nn.Conv1d(units, units, SPAN[1])
        self.gru1 = nn.GRU(units, units, batch_first=True)
        self.gru2 = nn.GRU(units, units, batch_first=True)
        self.gru3 = nn.GRU(units, units, batch_first=True)
        self.gain_gru = nn.GRU(units, units, batch_first=True)
        self.gain = nn.Linear(5 * units, BANDS)
        self.strength_gru = nn.GRU(2 * units, STRENGTH_UNITS, batch_first=True)
        self.strength = nn.Linear(STRENGTH_UNITS, BANDS)

    def new_state(self, batch: int) -> State:
        """The state of ``batch`` calls that begin: what the convolutions look back at, and what the GRUs hold."""
        units, like = self.topology.units, self.dense.weight
        past = [(SPAN[0] - 1, self.topology.dense), (SPAN[1] - 1, units)]
        held = [(size,) for size in (units, units, units, units, STRENGTH_UNITS)]
        return [like.new_zeros(batch, *shape) for shape in (*past, *held)]

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """Gains and strengths ``[B, T, 34]`` in [0, 1] from features ``[B, T, 70]``, and the state after them.

        Without a ``state`` the features begin with the call; with one they go on where those before it ended.
        """
        past1, past2, *held = self.new_state(len(features)) if state is None else state
        s1, s2, s3, sg, ss = (part[None] for part in held)  # as PyTorch's GRUs have it
        x1 = torch.cat([past1, torch.tanh(self.dense(features))], 1)  # [B, 4 + T, dense]
        # [B, 2 + T, units]
        x2 = torch.cat([past2, torch.tanh(self.conv1(x1.transpose(1, 2))).transpose(1, 2)], 1)
        conv = torch.tanh(self.conv2(x2.transpose(1, 2))).transpose(1, 2)  # [B, T, units]
        h1, s1 = self.gru1(conv, s1)  # [B, T, units]
        h2, s2 = self.gru2(h1, s2)  # [B, T, units]
        h3, s3 = self.gru3(h2, s3)  # [B, T, units]
        hg, sg = self.gain_gru(h3, sg)  # [B, T, units]
        hs, ss = self.strength_gru(torch.cat([h3, conv], -1), ss)  # [B, T, STRENGTH_UNITS]
        gain = torch.sigmoid(self.gain(torch.cat([conv, h1, h2, h3, hg], -1)))  # [B, T, 34]
        strength = torch.sigmoid(self.strength(hs))  # [B, T, 34]
        after = [part[0] for part in (s1, s2, s3, sg, ss)]
        return gain, strength, [x1[:, 1 - SPAN[0] :], x2[:, 1 - SPAN[1] :], *after]
