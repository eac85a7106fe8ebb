"""Scores of enhanced speech: PESQ, STOI and SI-SDR against the clean signal, DNSMOS. Extra ``[eval]``."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from percepnet.extras import needs
from percepnet.framing import Float
from percepnet.resampling import checked_rate, resample

with needs("eval", "scores need"):
    import speechmos  # for the DNSMOS network in it; its code would need librosa, for a fourth score
    from pesq import PesqError, pesq
    from pystoi import stoi

SCORE_RATE: Final = 16_000  # Hz, of PESQ-WB, STOI and DNSMOS
SI_SDR_LIMIT: Final = 100.0  # dB; equal signals would be infinite, and every mean with them
LOWEST_PESQ: Final = 1.0  # what a voice is worth of which nothing is left
PESQ_SECONDS: Final = 15  # the reference code of P.862 overruns its tables at 50 utterances of ≥ 0.4 s
DNSMOS_WINDOW: Final = 144_160  # samples, 9.01 s, what the network was trained on
DNSMOS_STEP: Final = SCORE_RATE  # samples between windows
DNSMOS_FITS: Final = MappingProxyType(  # in the order of the network's outputs; highest power first
    {
        "dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439),
        "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
        "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535),
    }
)
METRICS: Final = MappingProxyType(  # keys of scores() and what to call them in tables
    {
        "pesq_wb": "PESQ-WB",
        "stoi": "STOI",
        "estoi": "ESTOI",
        "si_sdr": "SI-SDR dB",
        "dnsmos_sig": "SIG",
        "dnsmos_bak": "BAK",
        "dnsmos_ovrl": "OVRL",
    }
)


def pesq_wb(clean: Float, degraded: Float) -> float:
    """PESQ wide-band MOS-LQO (P.862.2), 1.0…4.64, of ``[n]`` samples at 16 kHz; NaN without any speech.

    Recordings over 15 s are scored in equal pieces of at most that, and those with speech are averaged.
    """
    pieces = max(1, math.ceil(len(clean) / (PESQ_SECONDS * SCORE_RATE)))
    found = []
    for reference, signal in zip(
        np.array_split(clean, pieces), np.array_split(degraded, pieces), strict=True
    ):
        if not reference.any():
            continue
        if not signal.any():  # whose level the reference code cannot align
            found.append(LOWEST_PESQ)
            continue
        value = pesq(SCORE_RATE, reference, signal, "wb", on_error=PesqError.RETURN_VALUES)
        if value > 0:  # negative: no utterance found, or too short to look for one
            found.append(float(value))
    return sum(found) / len(found) if found else math.nan


def intelligibility(clean: Float, degraded: Float, *, extended: bool) -> float:
    """STOI, or ESTOI where ``extended``, 0…1, of ``[n]`` samples at 16 kHz; NaN under 0.4 s of speech."""
    if not clean.any():
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(clean, degraded, SCORE_RATE, extended=extended))
        except (RuntimeWarning, ValueError):  # too few frames left once the silent ones are gone
            return math.nan


def si_sdr(clean: Float, degraded: Float) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of ``[n]`` samples, within ±100; NaN if ``clean`` is silent.

    Source: Le Roux et al., "SDR – half-baked or well done?", ICASSP 2019.
    """
    reference = np.asarray(clean, np.float64) - np.mean(clean, dtype=np.float64)
    signal = np.asarray(degraded, np.float64) - np.mean(degraded, dtype=np.float64)
    if not reference.any():
        return math.nan
    if not signal.any():
        return -SI_SDR_LIMIT
    target = (signal @ reference) / (reference @ reference) * reference
    distortion = signal - target
    with np.errstate(divide="ignore"):
        ratio = 10 * np.log10(target @ target) - 10 * np.log10(distortion @ distortion)
    return float(np.clip(ratio, -SI_SDR_LIMIT, SI_SDR_LIMIT))


def dnsmos(signal: Float) -> dict[str, float]:
    """DNSMOS P.835 of ``[n]`` samples at 16 kHz: ``dnsmos_sig``, ``dnsmos_bak``, ``dnsmos_ovrl``, 1…5.

    Means over windows of 9.01 s, 1 s apart; shorter recordings are repeated, as in Microsoft's script.
    Source: Reddy et al., "DNSMOS P.835", ICASSP 2022; polynomials map the network's answers to ratings.
    """
    if not len(signal):
        raise ValueError("signal is empty; allowed is one sample or more")
    samples = np.clip(signal, -1, 1).astype(np.float32)
    while len(samples) < DNSMOS_WINDOW:
        samples = np.concatenate([samples, samples])
    session = _dnsmos_session()
    windows = int(len(samples) // DNSMOS_STEP - DNSMOS_WINDOW / DNSMOS_STEP) + 1  # as the script counts them
    ratings = []
    for start in range(0, windows * DNSMOS_STEP, DNSMOS_STEP):
        raw = session.run(None, {"input_1": samples[None, start : start + DNSMOS_WINDOW]})[0][0]
        ratings.append([np.polyval(fit, value) for fit, value in zip(DNSMOS_FITS.values(), raw, strict=True)])
    return dict(zip(DNSMOS_FITS, map(float, np.mean(ratings, axis=0)), strict=True))


@lru_cache(maxsize=1)
def _dnsmos_session() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # files are scored in processes side by side
    model = files(speechmos) / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])


def scores(
    clean: NDArray[np.floating[Any]],
    degraded: NDArray[np.floating[Any]],
    rate: int,
    metrics: Iterable[str] = tuple(METRICS),
) -> dict[str, float]:
    """The ``metrics`` (keys of ``METRICS``) of ``degraded [n]`` against ``clean [n]``, in their order.

    Both at ``rate`` Hz (8 000…192 000), full scale ±1, aligned to the sample. NaN marks what cannot be
    scored, such as the intelligibility of silence. ValueError for samples that are not finite, other shapes
    and unknown metrics.
    """
    wanted = tuple(metrics)
    if unknown := [name for name in wanted if name not in METRICS]:
        raise ValueError(f"metrics has {unknown}; allowed are {', '.join(METRICS)}")
    if clean.ndim != 1 or clean.shape != degraded.shape or not len(clean):
        raise ValueError(
            f"clean has shape {clean.shape}, degraded {degraded.shape}; allowed are two equal [n], n > 0"
        )
    if not (np.isfinite(clean).all() and np.isfinite(degraded).all()):
        raise ValueError("clean or degraded holds NaN or infinity; allowed are finite samples")
    pair = np.stack([clean, degraded]).astype(np.float32)
    reference, signal = resample(pair, checked_rate(rate), SCORE_RATE)

    compute: dict[str, Callable[[], float]] = {
        "pesq_wb": lambda: pesq_wb(reference, signal),
        "stoi": lambda: intelligibility(reference, signal, extended=False),
        "estoi": lambda: intelligibility(reference, signal, extended=True),
        "si_sdr": lambda: si_sdr(pair[0], pair[1]),
    }
    rated: Mapping[str, float] = dnsmos(signal) if any(name in DNSMOS_FITS for name in wanted) else {}
    return {name: rated[name] if name in rated else compute[name]() for name in wanted}


def means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over ``rows``, without the NaNs; NaN where nothing is left."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            found.setdefault(name, []).extend([] if math.isnan(value) else [value])
    return {name: sum(values) / len(values) if values else math.nan for name, values in found.items()}
