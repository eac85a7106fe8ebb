"""Hostile input in numbers, by command: ``python tests/fuzz.py offers --count 20000``, or ``datagrams``.

The real server, in this process and on loopback; a call goes on beside. Ends with status 1 and the first thing
that must not happen, else prints what was answered. What differs between two runs with one seed is chance in time.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from unittest.mock import patch
from weakref import WeakSet

import aioice.ice
import numpy as np
from aiortc import RTCPeerConnection
from caller import Caller
from calling import Server, serving, until
from fuzz_datagrams import attack
from fuzz_offers import throw
from tqdm import tqdm

from server import call, eventloop

GIVEN_BACK_IN = 10.0  # s
tqdm.monitor_interval = 0  # its thread would look like one that was left behind
TONE = (3000 * np.sin(np.arange(48_000) * 2 * np.pi * 440 / 48_000)).astype(np.int16)


@asynccontextmanager
async def besieged(patient: bool) -> AsyncIterator[tuple[Server, Caller]]:
    """A server with a call at hand; afterwards that must be unharmed, and nothing held that was not before.

    ``patient``: on a busy machine packets come late and get lost without any attack.

    All on 127.0.0.1, from where nothing gets out, whatever addresses an offer has.
    """
    with (
        patch.object(aioice.ice, "get_host_addresses", lambda **_: ["127.0.0.1"]),
        patch.object(call, "RTCPeerConnection", Counted),
    ):
        async with serving(max_calls=64) as server, Caller(server.url, TONE) as caller:
            async with server.http.get("/healthz") as answer:  # opens the connection that the others take
                await answer.read()
            before = await report(server, caller)
            held = held_now()
            came = len(caller.frames)
            began = time.monotonic()
            yield server, caller
            seconds = time.monotonic() - began
            after = await report(server, caller)
            assert after["state"] == "connected"
            assert not after["degraded"]
            assert after["packets"]["undecodable"] == before["packets"]["undecodable"]
            assert after["packets"]["in"] > before["packets"]["in"]
            lost = after["packets"]["lost"] - before["packets"]["lost"]
            assert patient or lost == 0, f"the call at hand has lost {lost} packets"
            heard = (len(caller.frames) - came) * 0.02
            assert patient or heard > 0.95 * seconds, f"the call at hand hears {heard:.1f} of {seconds:.1f} s"
            await settled(held)


async def report(server: Server, caller: Caller) -> Any:
    async with server.http.get(f"/calls/{caller.id}") as answer:
        return await answer.json()


async def settled(before: dict[str, int]) -> None:
    """Within 10 s no more is held than before."""
    end = time.monotonic() + GIVEN_BACK_IN
    while any((now := held_now())[name] > before[name] for name in before):
        if time.monotonic() > end:
            names = sorted(thread.name for thread in threading.enumerate())
            tasks = [str(task.get_coro()) for task in asyncio.all_tasks()]
            raise AssertionError(f"held: {now}, before: {before}; threads {names}, tasks {tasks}")
        await asyncio.sleep(0.1)


class Counted(RTCPeerConnection):
    """One of the server's."""

    alive: ClassVar[WeakSet[RTCPeerConnection]] = WeakSet()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.alive.add(self)


def held_now() -> dict[str, int]:
    """As ``holdings``, which looks at all objects: while another thread makes tuples that makes it fail."""
    gc.collect()
    return {
        "file descriptors": len(os.listdir("/proc/self/fd")),
        "threads": sum(
            not thread.name.startswith(("asyncio_", "uvloop_")) for thread in threading.enumerate()
        ),
        "tasks": len(asyncio.all_tasks()),
        "connections": len(Counted.alive),
    }


async def offers(count: int, seed: int, *, quiet: bool = True, patient: bool = True) -> dict[str, object]:
    """What was answered to so many bad offers."""
    async with besieged(patient) as (server, _):
        with tqdm(total=count, disable=quiet, unit="offer") as bar:
            answers = await throw(server.http, count, seed, lambda done: bar.update(done - bar.n))
        await until(lambda: len(server.calls) == 1, "all but the call at hand have ended")
    return {
        "offers": count,
        "seed": seed,
        "statuses": dict(sorted(answers.statuses.items())),
        "reasons": len(answers.reasons),
        "refusal_ms": percentiles(answers.refusals_ms),
        "refusal_cpu_ms": percentiles(answers.refusals_cpu_ms),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    return dict(zip(("p50", "p99", "max"), np.percentile(values, [50, 99, 100]).round(1), strict=True))


async def datagrams(count: int, seed: int, *, quiet: bool = True, patient: bool = True) -> dict[str, object]:
    """What became of so many datagrams at open ports."""
    async with besieged(patient) as (server, caller):
        with tqdm(total=count, disable=quiet, unit="datagram") as bar:
            found = await attack(server, caller, count, seed, lambda done: bar.update(done - bar.n))
        await until(lambda: len(server.calls) == 1, "the rogue's calls have ended")
    return {"datagrams": count, "seed": seed, **found}


def main() -> int:
    parser = argparse.ArgumentParser(description="Throw hostile input at the server.")
    parser.add_argument("what", choices=("offers", "datagrams"))
    parser.add_argument("--count", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default: 1)")
    parser.add_argument("--patient", action="store_true", help="the machine is busy: some loss is no failure")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args()
    run = offers if args.what == "offers" else datagrams
    try:
        found = eventloop.run(run(args.count, args.seed, quiet=args.quiet, patient=args.patient))
        print(json.dumps(found, indent=2))
    except AssertionError as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
