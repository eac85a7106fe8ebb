"""The cores there are, in containers with a quota of their time."""

import os
from pathlib import Path

import pytest

from percepnet.cli import cores

VERSION_2 = {"own": "0::/\n", "cpu.max": "250000 100000\n"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores without control groups; they can be written to it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN", tmp_path / "own")
    return tmp_path


@pytest.mark.parametrize(
    ("files", "time"),
    [
        ({}, 8),
        (VERSION_2, 2.5),
        (VERSION_2 | {"cpu.max": "max 100000\n"}, 8),
        (VERSION_2 | {"cpu.max": "50000 100000\n"}, 0.5),
        (VERSION_2 | {"cpu.max": "6400000 100000\n"}, 8),
        ({"own": "0::/a/b.service\n", "a/b.service/cpu.max": "300000 100000\n"}, 3),
        ({"own": "0::/docker/of-the-host\n", "cpu.max": "400000 100000\n"}, 4),
        ({"own": "4:cpu:/x\n", "cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"own": "4:cpu:/x\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_quota_of_time_counts(machine: Path, files: dict[str, str], time: float) -> None:
    for name, text in files.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text)
    assert cores.available_time() == time
    assert cores.available_cores() == max(1, int(time))
