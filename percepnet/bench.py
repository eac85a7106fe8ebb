"""What a call costs: processor time of the chain and of the network in it, for any number of streams."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from percepnet import native
from percepnet.enhancer import Enhancer
from percepnet.framing import HOP, SAMPLE_RATE, Float
from percepnet.network import Network

STEP: Final = 2 * HOP  # samples, one 20 ms packet
LOOP: Final = 20 * SAMPLE_RATE  # samples of material, repeated as long as a run takes
WARM_UP: Final = 50  # steps, 1 s: pitch history and caches fill
FORMANTS: Final = np.array(  # Hz, of the vowels i, e, a, o, u (Peterson and Barney 1952, men)
    [[270, 2290, 3010], [530, 1840, 2480], [730, 1090, 2440], [570, 840, 2410], [300, 870, 2240]]
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """The cost of ``streams`` calls that are enhanced as one batch."""

    streams: int
    cpu: float  # processor seconds per second of audio and stream; 0.05 is 5 % of a core
    network: float  # the part of it inside the network
    signal_processing: float  # the rest
    p50_ms: float  # wall time of a step of 20 ms with all its streams
    p99_ms: float


def machine() -> dict[str, str | int]:
    """Where and when, to stand beside every figure."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "onnxruntime": version("onnxruntime"),
        "signal_processing": native.implementation(),
        "percepnet": version("percepnet"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def measure(
    streams: int,
    *,
    seconds: float = 6.0,
    repeats: int = 3,
    model: str | Path | None = None,
    postfilter: bool = True,
    progress: Callable[[], None] | None = None,
) -> Load:
    """The cost of ``streams`` (≥ 1) calls: medians of ``repeats`` runs of ``seconds`` of audio each.

    Processor time is that of the whole process, all threads; the step times are over all runs.
    ``progress`` is called after every run.
    """
    if streams < 1 or seconds * SAMPLE_RATE < STEP or repeats < 1:
        raise ValueError(f"{streams=}, {seconds=}, {repeats=}; allowed are ≥ 1, ≥ 0.02 and ≥ 1")
    enhancer = Enhancer(streams=streams, model=model, postfilter=postfilter)
    network = _Timed(enhancer.network)
    enhancer.network = cast(Network, network)
    packets = _Packets(streams)
    for _ in range(WARM_UP):
        enhancer.process(packets.next())

    steps = round(seconds * SAMPLE_RATE / STEP)
    audio = steps * STEP / SAMPLE_RATE * streams  # seconds of it in a run
    totals, inside, walls = [], [], []
    for _ in range(repeats):
        network.spent = spent = 0.0
        for _ in range(steps):
            packet = packets.next()
            wall, cpu = time.perf_counter(), time.process_time()
            enhancer.process(packet)
            spent += time.process_time() - cpu
            walls.append(time.perf_counter() - wall)
        totals.append(spent / audio)
        inside.append(network.spent / audio)
        if progress:
            progress()
    total, within = statistics.median(totals), statistics.median(inside)
    p50, p99 = np.percentile(walls, [50, 99]) * 1000
    return Load(
        streams=streams,
        cpu=total,
        network=within,
        signal_processing=total - within,
        p50_ms=float(p50),
        p99_ms=float(p99),
    )


def report(loads: Sequence[Load]) -> dict[str, Any]:
    """``machine()`` and the ``loads`` in plain types, ready for JSON."""
    return {"machine": machine(), "loads": [asdict(load) for load in loads]}


def speech_like(samples: int, rng: np.random.Generator) -> Float:
    """Vowels of a gliding voice of 100…200 Hz with pauses ``[samples]``, −26 dBFS: work for the pitch search.

    Harmonics under moving formants; four syllables a second, about every fifth a pause.
    """
    syllables = samples * 4 // SAMPLE_RATE + 2
    at = np.arange(samples) * 4 / SAMPLE_RATE

    def moving(values: NDArray[np.float64]) -> Float:
        return np.interp(at, np.arange(syllables), values).astype(np.float32)

    pitch = moving(150 + 50 * np.sin(np.arange(syllables) * 0.7))
    phase = np.cumsum(2 * np.pi * pitch / SAMPLE_RATE, dtype=np.float64) % (2 * np.pi)
    formants = [moving(centre) for centre in FORMANTS[rng.integers(len(FORMANTS), size=syllables)].T]
    voice = np.zeros(samples, np.float32)
    for harmonic in range(1, 40):
        level = sum(1 / (1 + ((harmonic * pitch - formant) / 120) ** 2) for formant in formants)
        voice += level * np.sin((harmonic * phase).astype(np.float32))
    voice *= np.sin(np.pi * at) ** 2 * (rng.random(syllables) > 0.2)[at.astype(int)]
    scaled: Float = voice * np.float32(0.05 / np.sqrt(np.mean(np.square(voice)) + 1e-12))
    return scaled


class _Packets:
    """20 ms of every stream at a time: one voice in noise, each stream at a place of its own."""

    def __init__(self, streams: int) -> None:
        rng = np.random.default_rng(1)
        noise = rng.standard_normal(LOOP, np.float32) * np.float32(0.016)  # 10 dB below the voice
        self.packets: Float = (speech_like(LOOP, rng) + noise).reshape(-1, STEP)
        self.at = np.arange(streams) * len(self.packets) // streams

    def next(self) -> Float:
        """``[streams, STEP]`` samples."""
        self.at = (self.at + 1) % len(self.packets)
        packet: Float = self.packets[self.at]
        return packet


class _Timed:
    """An enhancer's network that adds up its processor time."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.spent = 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        began = time.process_time()
        answer = self.network(*args, **options)
        self.spent += time.process_time() - began
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


def _processor() -> str:
    """The processor's name; what Python knows of it where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
