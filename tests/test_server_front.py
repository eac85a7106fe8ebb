"""What the process before several workers keeps from them."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from server import front


async def test_who_asks_for_the_health_without_end_takes_no_workers_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = 0.0, []
    monkeypatch.setattr(front, "time", SimpleNamespace(monotonic=lambda: now))
    kept = front.Kept()

    async def ask() -> list[tuple[int, Any]]:
        asked.append(now)
        await asyncio.sleep(0)
        return [(200, len(asked))]

    for n in range(20):
        now = n / 10
        answers = await asyncio.gather(*(kept.told(ask) for _ in range(50)))
        assert answers == [[(200, len(asked))]] * 50
    assert asked == [0.0, 0.5, 1.0, 1.5]
