"""The answers of a larger network to learn from, in place of the ideal ones.

What a voice is beneath the noise nobody can tell from the noisy features, so ideal answers scatter around the best that
a network can give; the gradients of a small one are mostly that scatter. A larger one that has learned answers without
it. Source: knowledge distillation (Hinton et al. 2015).
"""

from pathlib import Path

import torch
from torch import Tensor

from percepnet.network import Network


class Teacher:
    """A model as :class:`percepnet.network.Network` takes it, for ``rows`` mixtures at once."""

    def __init__(self, model: str | Path, rows: int) -> None:
        self._network = Network(model)
        self._state = self._network.new_state(rows)

    def answers(self, features: Tensor, begun: Tensor) -> tuple[Tensor, Tensor]:
        """Gains and strengths ``[rows, T, BANDS]`` for ``features [rows, T, FEATURES]``.

        Where ``begun [rows]`` it hears a new mixture and knows nothing of the one before.
        """
        self._state[begun.numpy()] = 0
        gains, strengths, self._state = self._network(features.float().cpu().numpy(), self._state)
        return torch.from_numpy(gains).to(features.device), torch.from_numpy(strengths).to(features.device)
