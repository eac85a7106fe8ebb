"""The same calls in the same weather to several servers, side by side."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from server.access import headers
from server.loadtest.call import MeasuredCall
from server.loadtest.callers import ANSWER_TIME, run_quickly
from server.loadtest.compare import contestants, running
from server.loadtest.speech import Speech

from .trial import Trial


@contextmanager
def servers(url: str | None, echo: Path | None, options: Sequence[str]) -> Iterator[dict[str, str]]:
    """URLs by name: ours at ``url`` or else started with ``options``, and the script of an echo server if given."""
    ours, plain = contestants(echo or Path(), options)
    with ExitStack() as stack:
        found = {ours.name: url or stack.enter_context(running(ours))[0]}
        if echo is not None:
            found[plain.name] = stack.enter_context(running(plain))[0]
        yield found


def run(
    addresses: Mapping[str, str],
    conditions: Sequence[str],
    speech: Speech,
    *,
    seconds: float,
    seed: int,
    both_ways: bool,
    at_once: int,
    token: str | None,
    progress: Callable[[int], object],
) -> list[dict[str, Any]]:
    """A result for each condition and server; ``at_once`` conditions at a time, all servers in each."""
    found: list[dict[str, Any]] = []
    for first in range(0, len(conditions), at_once):
        trials = [
            Trial(condition=condition, name=name, url=url, seconds=seconds, seed=seed, both_ways=both_ways)
            for condition in conditions[first : first + at_once]
            for name, url in addresses.items()
        ]
        # Judged when all have hung up: it would keep the callers from being on time.
        calls = run_quickly(_calls(trials, speech, token))
        for trial, call in zip(trials, calls, strict=True):
            found.append(trial.result(call))
            progress(len(found))
    return found


async def _calls(trials: Sequence[Trial], speech: Speech, token: str | None) -> list[MeasuredCall]:
    async with aiohttp.ClientSession(timeout=ANSWER_TIME, headers=headers(token)) as http:
        return await asyncio.gather(*(trial.call(speech, http) for trial in trials))
