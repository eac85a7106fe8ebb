"""The sub-band network: one small recurrent network for every band, which hears its neighbours and all of the call.

Where ``model.PercepNet`` has to learn each band by itself, what one band teaches holds here for all of them: from
little material it learns several times faster. Source: the shared sub-band models of FullSubNet (Hao et al. 2021),
the path along the bands of DPCRN (Le et al. 2021), here a matrix, and P20's features, gains and strengths.

Shapes are ``[B, T, C]`` outside and ``[B, BANDS, T, C]`` inside: mixtures, hops, channels.
"""

from dataclasses import asdict, dataclass
from typing import Final

import torch
from torch import Tensor, nn

from percepnet.bands import BANDS
from percepnet.features import FEATURES
from percepnet.training.gru import RowGRU
from percepnet.training.model import State

SPAN: Final = 3  # hops that the first layer sees
REACH: Final = 2  # bands that it sees on each side
SQUEEZED: Final = 16  # numbers that each band tells the context


@dataclass(frozen=True)
class SubbandTopology:
    """Sizes of one member of the family."""

    channels: int = 96  # of each band
    context: int = 192  # units of the GRU that hears all bands at once
    blocks: int = 2

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def holds(self, other: "SubbandTopology") -> bool:
        """Whether a network of these sizes can be grown from one of the ``other``'s."""
        return (
            other.channels <= self.channels and other.context <= self.context and other.blocks == self.blocks
        )


class Block(nn.Module):
    """A path along the bands and one along time, each added to what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bands = nn.Linear(BANDS, BANDS)
        self.mix = nn.Linear(2 * channels, channels)
        self.gru = RowGRU(channels, channels, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x ``[B, BANDS, T, C]`` and state ``[B, BANDS, C]`` to the same."""
        batch, bands, hops, channels = x.shape
        own, others = self.mix.weight[:, :channels], self.mix.weight[:, channels:]
        across = torch.baddbmm(
            self.bands.bias[:, None], self.bands.weight.expand(batch, -1, -1), x.flatten(2)
        )
        mixed = torch.addmm(self.mix.bias, x.view(-1, channels), own.t())
        mixed = torch.addmm(mixed, across.view(-1, channels), others.t())
        x = x + torch.tanh(mixed).view_as(x)
        y, state = self.gru(x.view(batch * bands, hops, channels), state.reshape(1, -1, channels))
        return x + y.view_as(x), state.view(batch, bands, channels)


class SubbandNet(nn.Module):
    """Convolution over hops and bands, blocks, and a GRU over all bands before the last of them."""

    def __init__(self, topology: SubbandTopology) -> None:
        super().__init__()
        self.topology = topology
        channels, context = topology.channels, topology.context
        self.stem = nn.Conv2d(2, channels, (SPAN, 2 * REACH + 1), padding=(0, REACH))
        self.embedding = nn.Parameter(0.1 * torch.randn(BANDS, 1, channels))
        self.overview = nn.Linear(FEATURES, channels)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(topology.blocks))
        self.squeeze = nn.Linear(channels, SQUEEZED)
        self.pool = nn.Linear(SQUEEZED * BANDS, context)
        self.context = RowGRU(context, context, batch_first=True)
        self.spread = nn.Linear(context, channels)
        self.gain = nn.Linear(channels, 1, bias=False)
        self.gain_context = nn.Linear(context, BANDS)
        self.strength = nn.Linear(channels, 1, bias=False)
        self.strength_bias = nn.Parameter(torch.zeros(BANDS))

    def new_state(self, batch: int) -> State:
        """The state of ``batch`` calls that begin."""
        size, like = self.topology, self.embedding
        bands = [like.new_zeros(batch, BANDS, size.channels) for _ in range(size.blocks)]
        return [like.new_zeros(batch, SPAN - 1, 2 * BANDS), *bands, like.new_zeros(batch, size.context)]

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """As ``model.PercepNet``'s."""
        past, *bands, context = self.new_state(len(features)) if state is None else state
        # Levels and coherences [B, 2 + T, 2 · BANDS]
        planes = torch.cat([past, features[..., : 2 * BANDS]], 1)
        x = self.stem(planes.view(*planes.shape[:2], 2, BANDS).transpose(1, 2))
        x = torch.tanh(x).permute(0, 3, 2, 1).contiguous()  # [B, BANDS, T, C] from here on
        x = x + self.embedding + torch.tanh(self.overview(features))[:, None]
        for number, block in enumerate(self.blocks):
            if number == len(self.blocks) - 1:
                told = torch.tanh(self.squeeze(x)).transpose(1, 2).flatten(2)  # [B, T, BANDS · SQUEEZED]
                heard, context = self.context(torch.tanh(self.pool(told)), context[None])
                x = x + self.spread(heard)[:, None]
            x, bands[number] = block(x, bands[number])
        gain = self.gain(x)[..., 0].transpose(1, 2) + self.gain_context(heard)
        strength = self.strength(x)[..., 0].transpose(1, 2) + self.strength_bias
        after = [planes[:, 1 - SPAN :], *bands, context[0]]
        return torch.sigmoid(gain), torch.sigmoid(strength), after

    @torch.no_grad()
    def grow(self, weights: dict[str, Tensor]) -> None:
        """Take over what a narrower network with as many blocks has learned: the outputs are the same at first.

        What this one has more keeps its random weights, and nothing of what was there listens to it yet. Source:
        Net2Net (Chen et al. 2016), with zeros in place of copies.
        """
        for name, new in self.state_dict().items():
            old = weights[name]
            gates = 3 if "gru" in name or name.startswith("context") else 1
            sources = 2 if name.endswith("mix.weight") else 1  # the band itself, and the others
            to = new.view(gates, new.shape[0] // gates, *new.shape[1:])[:, : old.shape[0] // gates]
            of = old.view(gates, -1, *old.shape[1:])
            if new.dim() == 2:
                to, of = (x.unflatten(2, (sources, -1)) for x in (to, of))
                to.zero_()
            to[tuple(map(slice, of.shape))] = of
