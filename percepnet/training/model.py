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


@dataclass(frozen=True)
class Topology:
    """Sizes of one member of the family."""

    dense: int = 128
    units: int = 512  # of both convolutions and of each GRU but the strength head's

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


TOPOLOGIES: Final = {"full": Topology(), "lite": Topology(units=256), "toy": Topology(dense=32, units=32)}


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

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Gains and strengths ``[B, T, 34]`` in [0, 1], from features ``[B, T, 70]`` that begin with the call."""
        x = torch.tanh(self.dense(features)).transpose(1, 2)  # [B, dense, T]
        x = torch.tanh(self.conv1(nn.functional.pad(x, (SPAN[0] - 1, 0))))  # [B, units, T]
        x = torch.tanh(self.conv2(nn.functional.pad(x, (SPAN[1] - 1, 0))))  # [B, units, T]
        conv = x.transpose(1, 2)  # [B, T, units]
        h1, _ = self.gru1(conv)  # [B, T, units]
        h2, _ = self.gru2(h1)  # [B, T, units]
        h3, _ = self.gru3(h2)  # [B, T, units]
        hg, _ = self.gain_gru(h3)  # [B, T, units]
        hs, _ = self.strength_gru(torch.cat([h3, conv], -1))  # [B, T, STRENGTH_UNITS]
        gain = torch.sigmoid(self.gain(torch.cat([conv, h1, h2, h3, hg], -1)))  # [B, T, 34]
        strength = torch.sigmoid(self.strength(hs))  # [B, T, 34]
        return gain, strength
