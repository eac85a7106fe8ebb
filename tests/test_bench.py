import json

import numpy as np
import pytest

from percepnet.bench import measure, report, speech_like


def test_the_parts_make_the_whole() -> None:
    # One thread: the time of a step is the processor time of both its streams, give or take the scheduler.
    loads = (measure(2, seconds=1, repeats=3) for _ in range(5))
    load = next(load for load in loads if load.p50_ms / 20 == pytest.approx(2 * load.cpu, rel=0.5))
    assert load.streams == 2
    assert load.network > 0
    assert load.signal_processing > 0
    assert load.network + load.signal_processing == pytest.approx(load.cpu)
    assert 0 < load.p50_ms <= load.p99_ms


def test_batches_are_cheaper_than_single_calls() -> None:
    assert measure(8, seconds=1).cpu < measure(1, seconds=1).cpu


def test_progress_and_report() -> None:
    runs: list[int] = []
    load = measure(1, seconds=0.1, repeats=2, progress=lambda: runs.append(1))
    assert len(runs) == 2
    document = json.loads(json.dumps(report([load])))
    assert document["loads"][0]["streams"] == 1
    assert {"processor", "cores", "date", "onnxruntime"} <= set(document["machine"])


@pytest.mark.parametrize(
    "wrong", [{"streams": 0}, {"streams": 1, "seconds": 0.001}, {"streams": 1, "repeats": 0}]
)
def test_impossible_runs_are_named(wrong: dict[str, float]) -> None:
    name, value = list(wrong.items())[-1]
    with pytest.raises(ValueError, match=rf"{name}={value}.*allowed"):
        measure(**wrong)  # type: ignore[arg-type]


def test_the_material_is_voiced_speech_with_pauses() -> None:
    x = speech_like(4 * 48_000, np.random.default_rng(0))
    assert x.std() == pytest.approx(0.05, rel=0.05)
    levels = x.reshape(-1, 1_920).std(axis=1)  # 40 ms
    assert (levels < 0.02 * levels.max()).mean() > 0.05
    hiss = np.random.default_rng(0).standard_normal(len(x))
    assert periodicity(x) > 0.8 > 2 * periodicity(hiss)


def periodicity(x: np.ndarray) -> float:
    """Median over the louder 40 ms frames of the normalised correlation at the best pitch lag."""
    found = []
    levels = np.abs(x).reshape(-1, 1_920).max(axis=1)
    for start in 1_920 * np.flatnonzero(levels > np.median(levels))[:40]:
        frame = x[start : start + 1_920]
        best = 0.0
        for lag in range(240, 481):  # 100 to 200 Hz
            now, before = frame[lag:], frame[:-lag]
            best = max(best, now @ before / np.sqrt((now @ now) * (before @ before)))
        found.append(best)
    return float(np.median(found))
