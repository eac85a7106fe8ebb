"""A GRU for few channels and very many rows, which ``gru.cpp`` computes where a C++ compiler is to be had."""

import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

CHANNELS: Final = (16, 32, 48, 64, 96)  # that it is compiled for

_kernel: Any = None


def prepare() -> None:
    """Compile ``gru.cpp``, for all networks of this process; without a compiler they stay PyTorch's, with a warning.

    Takes half a minute the first time; PyTorch keeps what comes of it (``TORCH_EXTENSIONS_DIR``).
    """
    global _kernel
    from torch.utils.cpp_extension import load

    source = Path(__file__).with_name("gru.cpp")
    try:
        _kernel = load("percepnet_gru", [str(source)], extra_cflags=["-O3", "-march=native", "-ffast-math"])
    except (OSError, RuntimeError) as error:
        warnings.warn(f"training is slower by a third without a compiled GRU: {error}", stacklevel=2)


class RowGRU(nn.GRU):
    """``nn.GRU(channels, channels, batch_first=True)``: twice as fast for hundreds of rows on a CPU, if prepared."""

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """x ``[N, T, C]`` and state ``[1, N, C]`` to the same."""
        if _kernel is None or x.device.type != "cpu" or self.hidden_size not in CHANNELS:
            return super().forward(x, state)
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        start = state[0].float().contiguous()
        y: Tensor = _Rows.apply(x.float().contiguous(), start, *weights)  # type: ignore[no-untyped-call]
        return y, y[:, -1][None]


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, state: Tensor, *weights: Tensor) -> Tensor:
        y: Tensor = _kernel.forward(x, state, *weights)
        ctx.save_for_backward(x, state, *weights, y)
        return y

    @staticmethod
    def backward(ctx: Any, *change: Tensor) -> tuple[Tensor, ...]:
        gradients: list[Tensor] = _kernel.backward(*ctx.saved_tensors, change[0].contiguous())
        return tuple(gradients)
