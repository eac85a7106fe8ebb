"""A long time under calls, in short: what grows is told from what does not, and the command runs."""

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from calling import serving

from percepnet.cli import main
from server.weather.flat import Quantity, growth, judged
from server.weather.soak import QUANTITIES, is_flat

SECONDS = np.arange(600.0)


def rise(values: np.ndarray) -> float:
    found = growth(list(zip(SECONDS.tolist(), values.tolist(), strict=True)))
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(5))
def test_growth_is_that_of_the_second_half_whatever_outliers_say(seed: int) -> None:
    chance = np.random.default_rng(seed)
    noise = chance.normal(0, 2, 600)
    assert rise(50 + noise) == pytest.approx(0, abs=1.5)
    assert rise(50 + noise + SECONDS / 30) == pytest.approx(10, abs=1.5)
    assert rise(50 + noise + np.minimum(SECONDS, 300) / 3) == pytest.approx(0, abs=1.5)  # it warms up
    spoiled = 50 + noise + 1000 * (chance.random(600) < 0.1)
    assert rise(spoiled) == pytest.approx(0, abs=1.5)


def test_steps_of_a_leak_are_growth() -> None:
    """A descriptor that is left behind every half minute, among calls that take and give 20 each."""
    calls = 20 * np.random.default_rng(1).integers(2, 5, 600)
    verdict = judged(Quantity("descriptors", "", 5), list(zip(SECONDS, calls + SECONDS // 30, strict=True)))
    assert verdict["flat"] is False
    verdict = judged(Quantity("descriptors", "", 5), list(zip(SECONDS, calls.astype(float), strict=True)))
    assert verdict["flat"] is True


def test_what_was_not_seen_has_no_verdict() -> None:
    assert growth([]) is None
    assert growth([(0, 1.0), (1, None), (2, None), (3, None)]) is None
    verdict = judged(QUANTITIES[0], [(float(at), None) for at in range(9)])
    assert (verdict["flat"], verdict["median"], verdict["growth"]) == (None, None, None)
    assert is_flat({"quantities": {"memory": verdict}})
    assert not is_flat({"quantities": {"memory": verdict, "tasks": {"flat": False}}})


async def test_a_soak_is_run_judged_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = tmp_path / "soak.html"
    options = ["--minutes", "0.13", "--calls", "2", "--churn", "5", "--toggle", "1", "--report", str(report)]
    async with serving() as server:  # which is never too busy for a call
        status = await asyncio.to_thread(main, ["soak", server.url, *options, "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    calls = found["load"]["overall"]["calls"]
    assert calls["ok"] >= 2
    assert calls["failed"] == calls["broken"] == 0
    assert found["load"]["overall"]["packets"]["lost_on_purpose"] > 0
    assert found["load"]["overall"]["toggles"] > 0
    assert set(found["quantities"]) == {quantity.name for quantity in QUANTITIES}
    assert all(verdict["median"] is not None for verdict in found["quantities"].values())
    assert status == (0 if is_flat(found) else 1)
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") == len(QUANTITIES) + 1
    assert len(re.findall(r'class="line c0" d="M', page)) == len(QUANTITIES) + 1
