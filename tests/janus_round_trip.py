"""What a sidecar adds to a direct subscription: python tests/janus_round_trip.py [--publishers 10] [--seconds 20]

Starts Janus and a sidecar, the latter on a core of its own, then publishers who speak, and for each of them
somebody who listens to them directly and somebody who listens to their twin. Delays are those of the audio, from
a packet's leaving the speaker to the same sound's coming to the listener, what the encoders look ahead and the
algorithm's 30 ms included.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import AudioStreamTrack
from calling import until
from janus_people import Listener, Speaker, watching
from janus_server import ROOM, JanusServer
from numpy.typing import NDArray

from percepnet.bench import machine
from percepnet.cli.audio_files import read_mono
from server import eventloop
from server.frames import PACKET
from server.loadtest.hearing import lag
from server.loadtest.speech import Speech, decode
from server.loadtest.wire import PackedSender, Recorder, Tape, Wire

SETTLING = 2.0  # s after a listener's first packet that do not count
RECORDING = Path(__file__).parent / "recordings" / "noisy.flac"


class PackedSpeaker(Speaker):
    """Sends packets that were encoded before, from number ``first`` on."""

    def __init__(self, *arguments: Any, speech: Speech, first: int) -> None:
        super().__init__(*arguments, speech.pcm)
        self.tape, self.speech, self.first = Tape(), speech, first

    def track(self) -> MediaStreamTrack:
        return AudioStreamTrack()  # never asked for anything

    def prepare(self, transceiver: Any) -> None:
        self.sender = PackedSender(transceiver.sender, self.speech, self.first, chance=Random(self.first))
        Wire(transceiver, self.tape)

    async def __aexit__(self, *error: object) -> None:
        await self.sender.stop()
        await super().__aexit__(*error)


class TapedListener(Listener):
    """Keeps packets, and decodes none."""

    def on_track(self, track: MediaStreamTrack) -> None:
        self.tape = Tape()
        (transceiver,) = self.peer.connection.getTransceivers()
        Recorder(transceiver.receiver, self.tape)
        Wire(transceiver, self.tape)


def delays_ms(speaker: PackedSpeaker, listener: TapedListener) -> tuple[NDArray[np.float64], float]:
    """Of each packet of audio that left after settling, and the share of them that never came, in %."""
    sent, came = speaker.tape.sent, listener.tape.came
    left, left_at = np.array(sent.times), np.array(sent.at)
    back, back_at = np.array(came.times), np.array(came.at)
    # what was being said as the first packet came
    known = int(left[np.searchsorted(left_at, back_at[0]) - 1])
    samples = min(8 * 48_000, int(back.max()))
    heard, _ = decode(listener.tape.payloads, samples)
    late = lag(speaker.speech.said(speaker.first, known, samples), heard)
    assert late is not None, "not the voice that was to be heard"
    late -= known
    packets = round(late / PACKET)
    counted = (left_at > back_at[0] + SETTLING) & (left_at < left_at[-1] - 1)
    order = np.argsort(back, kind="stable")
    back, back_at = back[order], back_at[order]
    wanted = left[counted] + packets * PACKET
    place = np.minimum(np.searchsorted(back, wanted), len(back) - 1)
    found = np.abs(back[place] - wanted) < PACKET / 2
    between = back_at[place[found]] - left_at[counted][found]
    inside = late - (back[place[found]] - left[counted][found])
    return (between + inside / 48_000) * 1e3, 100 * float(1 - found.mean())


def summary(name: str, pairs: list[tuple[PackedSpeaker, TapedListener]]) -> dict[str, Any]:
    measured = [delays_ms(*pair) for pair in pairs]
    p50, p99 = np.percentile(np.concatenate([ms for ms, _ in measured]), [50, 99])
    missing = float(np.mean([share for _, share in measured]))
    return {
        "of": name,
        "p50_ms": round(p50, 1),
        "p99_ms": round(p99, 1),
        "missing_percent": round(missing, 3),
    }


async def measure(publishers: int, seconds: float, core: int) -> dict[str, Any]:
    speech = Speech.of(read_mono(RECORDING))
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        janus = await stack.enter_async_context(JanusServer(Path(folder)))
        room, watcher = await stack.enter_async_context(watching(janus))
        figures = await stack.enter_async_context(sidecar(janus, core))
        people = []
        for n in range(publishers):
            speaker = PackedSpeaker(room, f"{n}", speech=speech, first=37 * n)
            people.append(await stack.enter_async_context(speaker))
        await until(lambda: all(watcher.twins(person.id) for person in people), "a twin of each")
        direct, twins = await asyncio.gather(
            listening(stack, room, [(person, watcher.publishers[person.id]) for person in people]),
            listening(stack, room, [(person, watcher.twins(person.id)[0]) for person in people]),
        )
        before = await stats(figures)
        await asyncio.sleep(seconds)
        after = await stats(figures)
        found = [summary("direct", direct), summary("twin", twins)]
    cpu = after["cpu_s"] - before["cpu_s"]
    audio = (packets_out(after) - packets_out(before)) * PACKET / 48_000  # s, of all voices
    return {
        "publishers": publishers,
        "delay": found,
        "added_ms": round(found[1]["p50_ms"] - found[0]["p50_ms"], 1),
        "core_percent": round(100 * cpu / seconds, 1),
        "core_percent_per_voice": round(100 * cpu / audio, 1),  # also where there was no time for all of it
        "step_ms": after["step_ms"],
        "shed": after["shed"],
        "machine": machine(),
    }


def packets_out(figures: dict[str, Any]) -> int:
    return sum(twin["packets"]["out"] for twin in figures["rooms"][str(ROOM)]["twins"].values())


async def listening(
    stack: AsyncExitStack, room: Any, pairs: list[tuple[PackedSpeaker, Any]]
) -> list[tuple[PackedSpeaker, TapedListener]]:
    return [
        (person, await stack.enter_async_context(TapedListener(room, publisher)))
        for person, publisher in pairs
    ]


@asynccontextmanager
async def sidecar(janus: JanusServer, core: int) -> AsyncIterator[str]:
    """One in a process of its own, which has ``core`` for itself; yields the address of its figures."""
    command = [sys.executable, "-m", "percepnet", "sidecar", "janus"]
    command += ["--url", janus.urls["ws"], "--room", str(ROOM), "--stats-port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    os.sched_setaffinity(process.pid, {core})  # before it has threads, which would keep their own
    assert process.stderr is not None
    reading: asyncio.Task[None] | None = None
    try:
        async for line in process.stderr:
            if (found := re.search(r"figures at (http://\S+)", line.decode())) is not None:
                reading = asyncio.create_task(echo(process.stderr))
                yield found[1]
                break
    finally:
        process.terminate()
        await process.wait()
        if reading is not None:
            await reading


async def echo(lines: asyncio.StreamReader) -> None:
    async for line in lines:
        print(line.decode().rstrip(), file=sys.stderr)


async def stats(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        return dict(await answer.json())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--publishers", type=int, default=10, help="(default: 10)")
    parser.add_argument("--seconds", type=float, default=20.0, help="(default: 20)")
    options = parser.parse_args()
    core, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others or [core])
    print(json.dumps(eventloop.run(measure(options.publishers, options.seconds, core)), indent=2))
