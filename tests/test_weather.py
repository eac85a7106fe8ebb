"""Bad networks that are the same each time, and what calls become in them."""

import asyncio
import json
import socket
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calling import until

from percepnet.cli import main
from percepnet.framing import Float
from server.loadtest.hearing import course
from server.loadtest.speech import Speech, decode
from server.loadtest.wire import Log, Tape
from server.weather.conditions import CALM, OVERTAKEN, RUN, TABLE, Weather
from server.weather.fate import LOST_IN_BURST, Fate, Fates
from server.weather.relay import Relay

PACKET = 960
COUNT = 40_000
TIMEOUT = 20.0  # s
LAST = b"\x14last"  # as DTLS begins


def fates(weather: Weather, seed: str = "1", count: int = COUNT) -> list[Fate]:
    made = Fates(weather, seed)
    return [made.next(number / 50) for number in range(count)]


@pytest.mark.parametrize("name", TABLE)
def test_a_condition_is_told_by_the_name_it_was_given(name: str) -> None:
    assert str(Weather.parse(name)) == name
    assert Weather.parse(name).begin == CALM


@pytest.mark.parametrize(
    "name", ["", "rain", "loss", "loss-", "loss-101", "clean-1", "loss--5", "loss-5+", "rebind-2"]
)
def test_what_is_no_condition_is_told_with_what_is_allowed(name: str) -> None:
    with pytest.raises(ValueError, match=r"loss-0…100.*rebind"):
        Weather.parse(name)


@pytest.mark.parametrize("name", ["loss-5+loss-3", "burst-10+loss-5", "storm-50+jitter-5"])
def test_no_condition_is_given_twice(name: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        Weather.parse(name)


@pytest.mark.parametrize("loss", [1, 5, 10, 20])
@pytest.mark.parametrize("bursts", [False, True])
def test_as_many_get_lost_as_named_and_bursts_are_bursts(loss: float, bursts: bool) -> None:
    lost = np.array([fate.is_lost for fate in fates(Weather(loss=loss, bursts=bursts))])
    assert 100 * lost.mean() == pytest.approx(loss, rel=0.25)
    behind = lost[1:][lost[:-1]].mean()  # how often the next one gets lost, too
    assert behind == pytest.approx(LOST_IN_BURST * (1 - 1 / RUN) if bursts else loss / 100, abs=0.06)


def test_the_same_seed_is_the_same_weather_whatever_else_is_in_it() -> None:
    storm = Weather(loss=10, jitter=50, reorder=5, duplicate=5)
    assert fates(storm, "7", 1000) == fates(storm, "7", 1000)
    assert fates(storm, "7", 1000) != fates(storm, "8", 1000)
    alone = fates(Weather(loss=10), "7", 1000)
    assert [fate.is_lost for fate in alone] == [fate.is_lost for fate in fates(storm, "7", 1000)]


def test_weather_has_a_begin_and_an_end() -> None:
    storm = fates(Weather(jitter=100, loss=50, begin=2, end=4), count=300)
    calm = Fate((0.0,))
    assert storm[:100] == [calm] * 100
    assert storm[200:] == [calm] * 100
    assert calm not in storm[100:200]
    blackout = fates(Weather(blackout=3, begin=1), count=300)
    assert [number for number, fate in enumerate(blackout) if fate.is_lost] == list(range(50, 200))


def test_jitter_has_its_bound_and_those_that_are_overtaken_or_doubled_are_as_many_as_named() -> None:
    found = fates(Weather(jitter=40, reorder=5, duplicate=10))
    on_time = [fate.delays[0] for fate in found if not fate.overtaken]
    assert 0 <= min(on_time) < 0.039 < max(on_time) <= 0.040
    assert statistics.mean(on_time) == pytest.approx(0.010, abs=0.001)
    held = [fate.delays[0] for fate in found if fate.overtaken]
    assert len(held) / COUNT == pytest.approx(0.05, rel=0.1)
    assert min(held) >= OVERTAKEN
    assert sum(len(fate.delays) == 2 for fate in found) / COUNT == pytest.approx(0.1, rel=0.1)


def rtp(number: int) -> bytes:
    return (
        b"\x80\x6f"
        + (number % 65536).to_bytes(2, "big")
        + (number * PACKET % 2**32).to_bytes(4, "big")
        + bytes(4)
    )


class Ends:
    """A caller's socket and a server's with a relay between; the server answers each packet of audio."""

    def __init__(self, weather: Weather) -> None:
        self.tape = Tape()
        self.relay = Relay(weather, "1", self.tape)
        self.heard: list[bytes] = []  # by the server
        self.answered: list[bytes] = []  # heard by the caller
        self.addresses: list[Any] = []  # that the server sees

    async def talk(self, packets: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as caller, socket.socket(type=socket.SOCK_DGRAM) as server:
            for end in (caller, server):
                end.setblocking(False)
                end.bind(("127.0.0.1", 0))
            offer = await self.relay.offered(sdp(caller))
            answer = self.relay.answered(sdp(server))
            assert offer != answer
            assert all("candidate:" not in line or " typ host" in line for line in offer.splitlines())
            serving = asyncio.create_task(self._serve(server))
            listening = asyncio.create_task(self._listen(caller))
            near = ("127.0.0.1", int(answer.split("127.0.0.1 ")[1].split()[0]))
            for packet in packets:
                await loop.sock_sendto(caller, packet, near)
                await asyncio.sleep(0)
            async with asyncio.timeout(TIMEOUT):
                await self._ended(caller, near, LAST, listening)
                # The first end does not wait for those that were overtaken.
                await until(lambda: not self.relay._there._waiting, "what is under way has come")
                await self._ended(caller, near, LAST + LAST, asyncio.create_task(self._listen(caller)))
            for task in (serving, listening):
                task.cancel()
            await asyncio.wait([serving, listening])
            await self.relay.close()

    async def _ended(
        self, caller: socket.socket, near: tuple[str, int], last: bytes, hearing: "asyncio.Task[bytes]"
    ) -> None:
        """Say ``last`` until it comes back: what says that it was all may get lost, too."""
        while not (hearing.done() and hearing.result() == last):
            if hearing.done():
                hearing = asyncio.create_task(self._listen(caller))
            await asyncio.get_running_loop().sock_sendto(caller, last, near)
            await asyncio.wait([hearing], timeout=0.02)

    async def _serve(self, server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, sender = await loop.sock_recvfrom(server, 2000)
            if sender not in self.addresses:
                self.addresses.append(sender)
            await loop.sock_sendto(server, data, sender)
            if not data.startswith(LAST):
                self.heard.append(data)

    async def _listen(self, caller: socket.socket) -> bytes:
        """Until somebody says that it was all; returns that."""
        while not (data := (await asyncio.get_running_loop().sock_recvfrom(caller, 2000))[0]).startswith(
            LAST
        ):
            self.answered.append(data)
        return data


def sdp(end: socket.socket) -> str:
    port = end.getsockname()[1]
    return (
        f"v=0\r\nm=audio {port} X 111\r\na=candidate:1 1 udp 99 fd00::1 9 typ host\r\n"
        f"a=candidate:2 1 UDP 98 127.0.0.1 {port} typ host\r\na=candidate:3 1 udp 9 1.2.3.4 5 typ srflx\r\n"
    )


async def test_the_relay_loses_what_the_weather_says_and_only_on_the_way_to_the_server() -> None:
    weather = Weather(loss=20)
    kept = [rtp(number) for number, fate in enumerate(_audio(weather)) if not fate.is_lost]
    ends = Ends(weather)
    await ends.talk([rtp(number) for number in range(300)])
    assert ends.heard == kept
    assert ends.answered == kept
    assert ends.tape.lost == {number * PACKET for number in range(300)} - {
        int.from_bytes(packet[4:8], "big") for packet in kept
    }


def _audio(weather: Weather) -> list[Fate]:
    return fates(weather, "1 there audio", 300)


async def test_both_ways_lose_where_that_is_wanted() -> None:
    ends = Ends(Weather(loss=20, both_ways=True))
    await ends.talk([rtp(number) for number in range(300)])
    assert 150 < len(ends.answered) < len(ends.heard) < 300


async def test_jitter_keeps_the_order_reordering_does_not_and_doubles_come_twice() -> None:
    sent = [rtp(number) for number in range(200)]
    late = Ends(Weather(jitter=30))
    await late.talk(sent)
    assert late.heard == sent
    swapped = Ends(Weather(reorder=10))
    await swapped.talk(sent)
    assert swapped.heard != sorted(swapped.heard)
    assert set(swapped.heard) <= set(sent)
    doubled = Ends(Weather(duplicate=20))
    await doubled.talk(sent)
    assert set(doubled.heard) == set(sent)
    assert len(doubled.heard) > len(sent)


async def test_a_rebinding_is_another_address_at_its_time_and_the_way_back_follows() -> None:
    sent = [rtp(number) for number in range(200)]
    ends = Ends(Weather(rebind=True, begin=2))
    await ends.talk(sent)
    assert len(ends.addresses) == 2
    assert ends.heard == sent
    assert set(sent[101:]) <= set(ends.answered)


def test_the_delay_is_followed_while_it_changes(noisy: Float) -> None:
    """A server that holds everything 60 ms longer from the sixth second on."""
    speech = Speech.of((noisy * 32768).astype(np.int16))
    count, change = 600, 300
    sent, came = Log(), Log()
    sent.times.extend(range(0, count * PACKET, PACKET))
    sent.at.extend(100 + number / 50 for number in range(count))
    came.times.extend(range(0, count * PACKET, PACKET))
    came.at.extend(100.01 + number / 50 for number in range(count))
    payloads = {number * PACKET: speech.payloads[number] for number in range(change)}
    payloads |= {(number + 3) * PACKET: speech.payloads[number] for number in range(change, count - 3)}
    heard, _ = decode(payloads, count * PACKET)
    found = course(sent, came, lambda start, samples: speech.said(0, start, samples), heard, 312)
    before = [ms for at, ms in found if at < 5 and ms is not None]
    after = [ms for at, ms in found if at > 7 and ms is not None]
    assert len(before) > 4
    assert len(after) > 4
    assert before == pytest.approx([10] * len(before), abs=1)
    assert after == pytest.approx([70] * len(after), abs=1)


def test_calls_in_bad_weather_are_told_beside_the_echo(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "weather.html"
    arguments = ["--conditions", "clean,loss-20", "--seconds", "8", "--at-once", "2", "--report", str(report)]
    assert main(["weather", *arguments, "--json", "--quiet"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [(one["condition"], one["server_name"]) for one in results] == [
        *(("clean", "percepnet"), ("clean", "echo"), ("loss-20", "percepnet"), ("loss-20", "echo"))
    ]
    assert all(one["outcome"] == "ok" for one in results)
    clean, _, ours, echo = results
    assert clean["packets"]["lost_on_purpose"] == 0
    assert clean["pesq_wb"] > ours["pesq_wb"] >= 1
    assert ours["missing_percent"] < echo["missing_percent"]
    assert 30 < clean["delay_before_ms"] < echo["delay_after_ms"]
    assert ours["report"]["packets"]["received"] > 0
    # The same packets, as far as both calls were as long.
    assert abs(ours["packets"]["lost_on_purpose"] - echo["packets"]["lost_on_purpose"]) <= 15
    assert report.read_text(encoding="utf-8").count("<svg") == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--conditions", "hail-3"], "loss-0…100"), (["--seconds", "2"], "allowed are numbers")],
)
def test_wrong_usage_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["weather", *arguments])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
