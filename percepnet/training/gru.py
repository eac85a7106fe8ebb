"""A GRU for few channels and very many rows: ``gru.cpp`` and ``gru_bf16.cpp``, where they can be compiled."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

CHANNELS: Final = (16, 32, 48, 64, 96, 128)  # that it is compiled for

_kernel: Any = None


def is_faster() -> bool:
    """Whether what is compiled beats PyTorch's own: on AVX2 that is as fast forwards, and twice as fast back."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def prepare() -> None:
    """Compile it, for all networks of this process; without a compiler they stay PyTorch's, with a warning.

    Takes a minute the first time; PyTorch keeps what comes of it (``TORCH_EXTENSIONS_DIR``).
    """
    global _kernel
    from torch.utils.cpp_extension import load

    # PyTorch looks for Ninja in PATH only; pip has put it beside the interpreter
    os.environ["PATH"] = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]
    )
    sources = [str(Path(__file__).with_name(name)) for name in ("gru.cpp", "gru_bf16.cpp")]
    try:
        _kernel = load("percepnet_gru", sources, extra_cflags=["-O3", "-march=native", "-ffast-math"])
    except (OSError, RuntimeError) as error:
        warnings.warn(f"training is slower by a third without a compiled GRU: {error}", stacklevel=2)


class RowGRU(nn.GRU):
    """``nn.GRU(channels, channels, batch_first=True)``: twice as fast for hundreds of rows on a CPU, if prepared.

    Under autocast in bfloat16 six times as fast, where the processor has AMX; without it, in float.
    """

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """x ``[N, T, C]`` and state ``[1, N, C]`` to the same."""
        if _kernel is None or x.device.type != "cpu" or self.hidden_size not in CHANNELS:
            return super().forward(x, state)
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        start = state[0].float().contiguous()
        bf16 = torch.is_autocast_enabled("cpu") and _kernel.has_bf16(self.hidden_size)
        y: Tensor = _Rows.apply(bf16, x.float().contiguous(), start, *weights)  # type: ignore[no-untyped-call]
        return y, y[:, -1][None]


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bf16: bool, x: Tensor, state: Tensor, *weights: Tensor) -> Tensor:
        y: Tensor = _kernel.forward(x, state, *weights, bf16)
        ctx.bf16 = bf16
        ctx.save_for_backward(x, state, *weights, y)
        return y

    @staticmethod
    def backward(ctx: Any, *change: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor] = _kernel.backward(*ctx.saved_tensors, change[0].contiguous(), ctx.bf16)
        return None, *gradients
