"""Things that go wrong on purpose: each call goes on, with dry audio of the same delay, and says so."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import aiortc.clock
import numpy as np
import pytest
from caller import Caller
from calling import PACKET, TIMEOUT, Server, packets, serving, until
from engines import Ear, Gate, alone, delayed

from percepnet.cli import main
from percepnet.framing import SEAM, Float, Pcm
from percepnet.network import Network
from server import engine as engine_module
from server.api import CALLS, ENGINE
from server.app import _report_life
from server.controls import Changes
from server.ending import Ending
from server.engine import MOST_DEATHS, Engine
from server.fallback import WARM_UP_PACKETS
from server.overload import Overload
from server.worker import Parent

AT_ONCE = 0.1  # s: of a batch, in tests that wait for the engine to stand still
NEVER = TIMEOUT
needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
deadly = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Faulty(Network):
    """The network, which on request answers with NaN, or not for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.ill = False
        self.closed = threading.Event()
        self.open = threading.Event()
        self.open.set()

    def __call__(self, features: Float, state: Float) -> tuple[Float, Float, Float]:
        if not self.open.is_set():
            self.closed.set()
            assert self.open.wait(TIMEOUT)
        gains, strengths, state = super().__call__(features, state)
        return (gains * np.nan, strengths * np.nan, state * np.nan) if self.ill else (gains, strengths, state)


@pytest.fixture
def gate() -> Gate:
    return Gate(4)


@pytest.fixture
def engine(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(engine_module, "STANDSTILL", NEVER)
    monkeypatch.setattr(Overload, "note", lambda *_: 0)  # overload has tests on a clock of its own
    engine = Engine(gate, streams=4, queue_packets=10)
    engine.start()
    yield engine
    gate.open.set()
    engine.stop()


def wait_until(condition: Any) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_network_without_numbers_is_told_and_comes_back(
    engine: Engine, gate: Gate, noisy: Float, caplog: pytest.LogCaptureFixture
) -> None:
    network = gate.network = Faulty()
    pcm = noisy[: 60 * PACKET]
    ear = Ear(engine)
    ear.say(pcm[: 10 * PACKET])
    network.ill = True
    ear.say(pcm[10 * PACKET : 30 * PACKET])
    assert ear.port.enhancement == "failed"
    assert (ear.port.figures.faults, engine.failed_calls) == (1, 1)
    network.ill = False
    ear.say(pcm[30 * PACKET :])
    assert (ear.port.enhancement, engine.failed_calls) == ("on", 0)
    heard, dry = ear.wait(60), delayed(pcm)
    assert np.abs(heard - dry)[12 * PACKET : 30 * PACKET].max() < 1e-6
    assert np.abs(heard - dry)[40 * PACKET :].max() > 0.02
    assert caplog.text.count("a call gets dry audio") == 1


def test_packets_go_past_an_engine_that_stands_still_and_calls_come_back_by_themselves(
    engine: Engine,
    gate: Gate,
    noisy: Float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, through, after = 20, 100, 20  # packets; 2 s while it stands still
    pcm = noisy[: (before + through + after) * PACKET]
    ear, other, off = Ear(engine), Ear(engine), Ear(engine)
    off.port.set(Changes(enabled=False))
    for one in (ear, off):
        one.say(pcm[: before * PACKET])
    monkeypatch.setattr(engine_module, "STANDSTILL", AT_ONCE)
    gate.open.clear()
    for number in range(before, before + through):
        for one in (ear, off):
            one.port.submit(number, pcm[number * PACKET :][:PACKET])
            one.wait(number + 1)
    assert ear.port.enhancement == "failed"
    assert not other.heard
    assert engine.alive
    monkeypatch.setattr(engine_module, "LONGEST_STANDSTILL", 0.0)
    assert not engine.alive  # it is not expected to go on any more
    assert ear.port.figures.passed == through
    assert ear.port.figures.dropped == 0
    monkeypatch.setattr(engine_module, "STANDSTILL", NEVER)
    gate.open.set()
    wait_until(lambda: not engine._stands_still)
    ear.say(pcm[(before + through) * PACKET :])
    other.say(pcm[: 5 * PACKET])  # it had nothing to miss
    assert np.abs(other.wait(5) - alone(pcm[: 5 * PACKET])).max() < 1e-6

    heard, dry = ear.wait(before + through + after), delayed(pcm)
    assert [time for time, _ in ear.heard] == list(range(before + through + after))
    start, end = before * PACKET, (before + through) * PACKET
    assert heard[start] - heard[start - 1] == pytest.approx(dry[start] - dry[start - 1], abs=1e-6)  # no click
    heard_off = off.wait(before + through)[5 * PACKET :]  # after the fade at its start
    assert np.abs(heard_off - dry[5 * PACKET : end]).max() < 1e-7  # who hears dry audio anyhow hears no seam
    assert np.array_equal(heard[start + SEAM : end], dry[start + SEAM : end])
    warm = end + WARM_UP_PACKETS * PACKET
    assert np.array_equal(heard[end:warm], dry[end:warm])
    assert np.abs(heard[warm + PACKET :] - alone(pcm[end:])[warm + PACKET - end :]).max() < 1e-6
    assert ear.port.enhancement == "on"
    assert caplog.text.count("stands still") == 1


def test_a_call_that_ends_while_the_engine_stands_still_leaves_its_place_as_new(
    engine: Engine, gate: Gate, noisy: Float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STANDSTILL", AT_ONCE)
    first = Ear(engine)
    gate.open.clear()
    first.port.submit(0, noisy[:PACKET])
    first.wait(1)
    first.port.close()
    second = Ear(engine)
    assert second.port.slot == first.port.slot
    monkeypatch.setattr(engine_module, "STANDSTILL", NEVER)
    gate.open.set()
    wait_until(lambda: not engine._stands_still)
    assert np.abs(second.say(noisy[: 10 * PACKET]) - alone(noisy[: 10 * PACKET])).max() < 1e-6
    assert len(first.heard) == 1


@deadly
def test_a_thread_that_dies_is_replaced_and_nobody_misses_a_packet(
    engine: Engine, gate: Gate, noisy: Float
) -> None:
    one, two = noisy[: 60 * PACKET], noisy[100 * PACKET : 160 * PACKET]
    ears = {Ear(engine): one, Ear(engine): two}
    deaths: list[int] = []

    def dies(streams: list[int]) -> bool:
        if deaths:
            return False
        deaths.append(1)
        raise SystemExit

    for ear, pcm in ears.items():
        ear.say(pcm[: 20 * PACKET])
    gate.faulty = dies
    for ear, pcm in ears.items():
        ear.say(pcm[20 * PACKET :])
    assert deaths
    assert engine.alive
    for ear, pcm in ears.items():
        heard = ear.wait(60)
        assert [time for time, _ in ear.heard] == list(range(60))
        assert ear.port.enhancement == "on"
        # Enhanced by both threads, dry between them.
        assert np.abs(heard[: 20 * PACKET] - alone(pcm)[: 20 * PACKET]).max() < 1e-6
        assert np.abs(heard - delayed(pcm))[40 * PACKET :].max() > 0.02
        dry = slice(20 * PACKET + SEAM, (20 + ear.port.figures.passed + WARM_UP_PACKETS) * PACKET)
        assert np.array_equal(heard[dry], delayed(pcm)[dry])
        assert ear.port.figures.dropped == 0


@deadly
def test_calls_stay_dry_where_every_thread_dies(engine: Engine, gate: Gate, noisy: Float) -> None:
    def dies(streams: list[int]) -> bool:
        raise SystemExit

    gate.faulty = dies
    ear = Ear(engine)
    heard = ear.say(noisy[: 50 * PACKET])
    assert np.array_equal(heard[SEAM:], delayed(noisy[: 50 * PACKET])[SEAM:])
    assert len(gate.batches) == 2 + MOST_DEATHS  # one as it starts, and one of each thread
    assert not engine.alive


async def reported(server: Server, caller: Caller, enhancement: str) -> dict[str, Any]:
    """The call's report, once it says so."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            report: dict[str, Any] = await (await server.http.get(f"/calls/{caller.id}")).json()
            if report["enhancement"] == enhancement:
                return report
            await asyncio.sleep(0.02)


async def test_calls_go_on_through_faults_and_say_so(speech: Pcm) -> None:
    """A network that answers with NaN, then an engine that stands still for 2 s, under two calls."""
    async with (
        serving(standstill=0.5, queue_packets=50) as server,
        Caller(server.url, speech) as one,
        Caller(server.url, speech) as two,
    ):
        network = server.calls._engine._enhancer.network = Faulty()
        network.ill = True
        for caller in (one, two):
            report = await reported(server, caller, "failed")
            assert report["degraded"]
        assert server.calls.figures()["failed"] == 2
        network.ill = False
        for caller in (one, two):
            await reported(server, caller, "on")
        network.open.clear()
        await asyncio.to_thread(network.closed.wait, TIMEOUT)
        for caller in (one, two):
            await reported(server, caller, "failed")
            await packets(caller, 100)
        network.open.set()
        for caller in (one, two):
            report = await reported(server, caller, "on")
            assert report["packets"]["passed"] >= 100
            assert report["state"] == "connected"
            track = server.calls.get(caller.id)._track
            assert track is not None
            assert track.port.figures.dropped == 0


@deadly
async def test_a_worker_without_an_engine_keeps_its_calls_and_ends_after_the_last(
    speech: Pcm,
) -> None:
    class Deadly(Network):
        def __call__(self, features: Float, state: Float) -> tuple[Float, Float, Float]:
            raise SystemExit

    ours, theirs = socket.socketpair()
    with theirs, Ending(300) as ending:
        async with serving() as server, Caller(server.url, speech) as caller:
            engine = server.calls._engine
            parent = await Parent.connected(ours)
            life = asyncio.create_task(
                _report_life(parent, {ENGINE: engine, CALLS: server.calls}, ending)  # type: ignore[arg-type]
            )
            engine._enhancer.network = Deadly()
            await until(lambda: not engine.alive, "its threads have died")
            await packets(caller, 75)
            report = await reported(server, caller, "failed")
            assert report["state"] == "connected"
            assert not ending.is_told
            await caller.hang_up()
            async with asyncio.timeout(TIMEOUT):
                await ending.told()
            life.cancel()
            await asyncio.wait([life])
            await parent.close()
        assert b'{"failed": "has lost its engine"}' in theirs.recv(10_000)


async def test_a_clock_that_jumps_is_nobodys_clock(speech: Pcm, monkeypatch: pytest.MonkeyPatch) -> None:
    wall, now = time.time, aiortc.clock.current_datetime
    async with serving() as server, Caller(server.url, speech) as caller:
        await packets(caller, 20)
        for hours in (-3, 1000):

            def moved(hours: int = hours) -> datetime:
                return now() + timedelta(hours=hours)

            monkeypatch.setattr(time, "time", lambda hours=hours: wall() + 3600 * hours)
            for name, module in list(sys.modules.items()):
                if name.startswith("aiortc") and hasattr(module, "current_datetime"):
                    monkeypatch.setattr(module, "current_datetime", moved)
            await packets(caller, 3)
            # A jump must not count as jitter: no report has room for it, and aiortc's task of reports would die of it.
            for connection in (caller.connection, server.calls.get(caller.id)._connection):
                (transceiver,) = connection.getTransceivers()
                streams = transceiver.receiver._RTCRtpReceiver__remote_streams.values()
                assert max(stream.jitter for stream in streams) < 48_000
            await packets(caller, 60)  # and receiver reports, which aiortc stamps with it
            report = await (await server.http.get(f"/calls/{caller.id}")).json()
            assert 0 < report["age_s"] < TIMEOUT
            assert (report["state"], report["enhancement"]) == ("connected", "on")
            assert report["delay"]["server_p99_ms"] < 1000 * TIMEOUT


@needs_full
async def test_a_server_whose_log_finds_no_room_serves(speech: Pcm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "percepnet", "serve", "--port", str(port), "--workers", "2"]
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230
        process = subprocess.Popen(command, stderr=full, stdout=full)  # noqa: ASYNC220
    try:
        url = f"http://127.0.0.1:{port}"
        await healthy(url, process)
        async with Caller(url, speech) as caller:
            await packets(caller, 20)
        process.terminate()
        # 120: Python could not flush its streams
        assert await asyncio.to_thread(process.wait, TIMEOUT) in (0, 120)
    finally:
        process.kill()
        process.wait()


async def healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(3 * TIMEOUT):
        while process.poll() is None:
            try:
                async with http.get(url + "/healthz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(f"the server has ended with status {process.returncode}")


@needs_full
def test_a_report_that_finds_no_room_costs_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["load", "http://127.0.0.1:9", "--seconds", "0.2", "--quiet", "--report", "/dev/full"]) == 1
    told = capsys.readouterr()
    assert "set-up" in told.out
    assert "No space left" in told.err
