"""What is bounded: datagrams of callers and strangers, faults, and what those who have left a room still cost."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from server.broadcast import WAITING_PACKETS, ListenerTrack
from server.media import guard, opus
from server.rooms import Rooms

CALLER, STRANGER = ("192.0.2.1", 5000), ("198.51.100.7", 5000)
RTP = bytes([128, 96]) + bytes(60)
RTCP = bytes([128, 200]) + bytes(60)
STUN = bytes(20)
DTLS = b"\x16\xfe\xfd" + bytes(20)


class Door:
    """A guard before a socket of its own, of a call whose caller is known."""

    def __init__(self) -> None:
        candidate = SimpleNamespace(_network_host=CALLER[0], port=CALLER[1])
        ice: Any = SimpleNamespace(_remote_candidates=[candidate], _protocols=[])
        self.guard = guard.Guard(ice)
        assert self.lets_in(RTP, CALLER) == 1

    def lets_in(self, data: bytes, address: tuple[str, int], count: int = 1) -> int:
        """How many of so many datagrams at once are passed on; all others are counted as refused."""
        passed: list[bytes] = []
        before = self.guard.refused
        for _ in range(count):
            self.guard.came(lambda data, addr: passed.append(data), data, address)
        assert self.guard.refused - before == count - len(passed)
        return len(passed)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def door(now: list[float]) -> Door:
    return Door()


def test_of_a_stranger_only_what_shows_by_itself_whose_it_is_is_let_in(door: Door) -> None:
    for kind in range(256):
        data = bytes([kind]) + RTP[1:]
        is_dtls, is_others = 19 < kind < 64, kind < 4 or 127 < kind < 192
        assert door.lets_in(data, (f"198.51.100.{kind}", 5000)) == is_others, kind
        assert door.lets_in(data, CALLER) == (is_others or is_dtls), kind
    for data in (b"", b"\x80", RTP[:11]):
        assert door.lets_in(data, STRANGER) == door.lets_in(data, CALLER) == 0
    assert door.lets_in(DTLS, STRANGER) == 0


@pytest.mark.parametrize(
    ("data", "address", "at_once", "a_second"),
    [
        (RTP, CALLER, 1200, 600),
        (STUN, CALLER, 1200, 600),
        (DTLS, CALLER, 200, 100),
        (RTCP, CALLER, 100, 50),
        (RTP, STRANGER, 160, 80),
        (STUN, STRANGER, 160, 80),
    ],
    ids=["audio", "checks", "DTLS", "reports", "a stranger's audio", "a stranger's checks"],
)
def test_nobody_may_send_without_end(
    door: Door, now: list[float], data: bytes, address: tuple[str, int], at_once: int, a_second: int
) -> None:
    assert door.lets_in(data, address, 5000) == at_once
    now[0] += 1
    assert door.lets_in(data, address, 5000) == a_second
    other = STRANGER if address is CALLER else CALLER
    assert door.lets_in(RTP, other, 10) == 10  # they do not take each other's share


def test_not_even_all_strangers_together(door: Door, now: list[float]) -> None:
    def come() -> int:
        return sum(door.lets_in(RTP, (f"198.51.100.{host}", 5000), 100) for host in range(20))

    assert come() == 399  # the caller's first was taken for a stranger's
    now[0] += 1
    assert come() == 200
    assert door.lets_in(RTP, CALLER, 10) == 10


def test_only_what_a_caller_sends_shows_that_it_is_there(door: Door, now: list[float]) -> None:
    for _ in range(20):
        now[0] += 1
        assert door.lets_in(RTP, STRANGER) == door.lets_in(STUN, STRANGER) == 1
        door.lets_in(b"", CALLER)
    assert door.guard.heard == 1000
    for data in (RTP, STUN, DTLS):
        now[0] += 1
        assert door.lets_in(data, CALLER) == 1
        assert door.guard.heard == now[0]
    assert door.guard.spoken == 1000  # none of it has been shown to be authentic


def test_a_standstill_of_this_process_is_no_silence_of_a_caller(door: Door, now: list[float]) -> None:
    now[0] += 100
    door.guard.excuse(90)
    assert door.guard.heard == door.guard.spoken == 1090
    door.guard.excuse(90)
    assert door.guard.heard == door.guard.spoken == 1100  # not in the future


async def test_a_reader_that_fails_without_a_datagram_does_not_run_for_ever() -> None:
    failure: Exception = ValueError("nothing was there")

    async def fail(*arguments: object, **options: object) -> None:
        raise failure

    dtls: Any = SimpleNamespace(_recv_next=fail, _handle_rtp_data=fail, _handle_rtcp_data=fail)
    found = Door().guard
    found.install(dtls)
    for _ in range(guard.MOST_FAULTS):
        await dtls._recv_next()
    with pytest.raises(ValueError, match="nothing was there"):
        await dtls._recv_next()
    failure = ConnectionError("the end")
    before = found.faults
    with pytest.raises(ConnectionError, match="the end"):
        await dtls._recv_next()
    assert found.faults == before


async def test_a_slow_listener_misses_the_oldest_and_keeps_no_more_than_a_third_of_a_second() -> None:
    track = ListenerTrack(lambda _: None)
    said = [opus.encoded(b"", n * 960, 0) for n in range(41)]
    track.give(said[0])
    assert await track.recv() is said[0]
    for packet in said[1:]:
        track.give(packet)
    assert track.dropped == 40 - WAITING_PACKETS == 24
    assert [await track.recv() for _ in range(WAITING_PACKETS)] == said[-WAITING_PACKETS:]


class Silent(MediaStreamTrack):
    kind = "audio"

    async def recv(self) -> Any:
        await asyncio.Event().wait()


async def test_listeners_who_have_left_are_not_served_while_the_publisher_stays() -> None:
    rooms = Rooms(opus.OpusOptions())
    publisher = rooms.publish("desk")
    publisher.take(Silent())
    voice = rooms._rooms["desk"].voice
    seats = [rooms.listen("desk") for _ in range(3)]
    tracks = [seat.take(None) for seat in seats]
    for left, (seat, track) in enumerate(zip(seats, tracks, strict=True)):
        assert voice.listeners == 3 - left
        await seat.leave()
        assert track is not None
        with pytest.raises(MediaStreamError):
            await asyncio.wait_for(track.recv(), 20)
    assert voice.listeners == 0
    assert voice.live
    voice.listen().stop()  # as when its connection ends
    assert voice.listeners == 0
    await publisher.leave()
    assert len(rooms) == 0


async def test_a_partner_who_has_left_is_not_served_while_the_other_stays() -> None:
    rooms = Rooms(opus.OpusOptions())
    stays, leaves = rooms.join("x"), rooms.join("x")
    stays.take(Silent())
    pair = rooms._pairs["x"]
    for _ in range(2):
        leaves.take(Silent())
        assert [voice.listeners for voice in pair.voices] == [1, 1]
        await leaves.leave()
        assert [(voice.listeners, voice.live) for voice in pair.voices] == [(0, True), (1, False)]
        leaves = rooms.join("x")
    await leaves.leave()
    await stays.leave()
    assert len(rooms) == 0


def test_a_room_is_mono_whatever_the_calls_alone_have() -> None:
    wanted = opus.OpusOptions(bitrate=48_000, stereo=True, fec=True)
    rooms = Rooms(wanted)
    publisher = rooms.publish("desk")
    for seat in (publisher, rooms.join("x")):
        assert seat.encoding == opus.OpusOptions(bitrate=48_000, stereo=False, fec=True)
