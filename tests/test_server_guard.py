"""What strangers and a broken caller send to a call's sockets, and callers that fall silent."""

import asyncio
import contextlib
import random
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import aioice.ice
import numpy as np
import pytest
from aiortc.rtp import RtcpByePacket, RtcpRrPacket, RtcpRtpfbPacket
from aiortc.sdp import SessionDescription
from caller import Caller
from calling import Server, packets, serving, until
from fuzz_datagrams import binding

from server.allowance import BURST, Allowance
from server.call import MOST_CHANNELS
from server.frames import FASTEST
from server.loadtest.wire import Tape, Wire
from server.media import guard

SILENCE = np.zeros(960, np.int16)


async def report(server: Server, caller: Caller) -> Any:
    return await (await server.http.get(f"/calls/{caller.id}")).json()


@contextlib.contextmanager
def stranger(caller: Caller) -> Iterator[Any]:
    """A function that sends to the server's port of the call from another address than the caller's."""
    session = SessionDescription.parse(caller.connection.remoteDescription.sdp)
    host = next(c for c in session.media[0].ice_candidates if ":" not in c.ip)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield lambda data: sock.sendto(data, (host.ip, host.port))


async def test_no_datagram_of_a_stranger_ends_a_call() -> None:
    rtp = bytes([128, 96]) + secrets.token_bytes(60)
    goodbye = bytes.fromhex("15fefd00000000000000050002" + "0100")  # DTLS alert: close_notify, in the clear
    hostile = [b"", b"\x80", b"\x80\xc8", goodbye, b"\xff" * 60]
    harmless = [rtp, b"\x00", b"\x00\x01\xff\xff" + bytes(16)]  # aiortc and aioice find out themselves
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        with stranger(caller) as send:
            for number, data in enumerate(hostile):
                send(data)
                await until(lambda: caller_guard(server).refused > number, f"{data!r} is refused")  # noqa: B023
                assert caller_guard(server).refused == number + 1
            for data in harmless:
                send(data)
                await packets(caller, 2)
            assert caller_guard(server).refused == len(hostile)
            before = await report(server, caller)
            for _ in range(2000):
                send(rtp)
            await until(
                lambda: caller_guard(server).refused > before["datagrams"]["refused"], "the flood is refused"
            )
        await packets(caller, 5)
        after = await report(server, caller)
        assert after["state"] == "connected"
        assert after["packets"]["undecodable"] == 0
        assert caller_guard(server).faults == 0


def caller_guard(server: Server) -> guard.Guard:
    (call,) = server.calls._calls.values()
    assert call._guard is not None
    return call._guard


async def test_nothing_that_comes_makes_the_reader_of_a_call_end() -> None:
    """Where aiortc fails at a datagram of its own peer."""
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        dtls = caller.transceiver.sender.transport
        await packets(caller, 2)
        await dtls.transport._send(b"")
        (call,) = server.calls._calls.values()
        theirs = call._connection.getTransceivers()[0].receiver.transport
        router, theirs._rtp_router = theirs._rtp_router, None  # whatever comes now is a fault
        await until(lambda: caller_guard(server).faults > 3, "faults are counted")
        assert (await report(server, caller))["state"] == "connected"
        theirs._rtp_router = router


async def test_a_caller_has_no_more_sources_than_a_report_can_name() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        dtls = caller.transceiver.sender.transport
        await packets(caller, 2)
        for number in range(300):
            header = bytes([128, 96, 0, 1]) + bytes(4) + (number + 1).to_bytes(4, "big")
            await dtls._send_rtp(header + b"\xf8\xff\xfe")
        await until(lambda: caller_guard(server).refused > 200, "the others are refused")
        assert len(caller_guard(server).sources) == guard.MOST_SOURCES
        await packets(caller, 5)
    # It gives back all it held: aiortc's reports would have failed at so many sources, and with them its end.
    await until(lambda: not len(server.calls), "the call is freed")


async def test_a_gateway_may_begin_one_source_after_the_other_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "MORE_SOURCES", 1000.0)  # a second: its holds are short
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        sender = caller.transceiver.sender
        send = sender.transport._send_rtp
        source = 0

        async def of_another_source(data: bytes) -> None:
            await send(data[:8] + source.to_bytes(4, "big") + data[12:])

        sender.transport._send_rtp = of_another_source
        while source < 3 * guard.MOST_SOURCES:
            source += 1
            await packets(caller, 1)
        found = caller_guard(server)
        assert len(found.sources) == guard.MOST_SOURCES
        talking, *others = found.sources
        assert found._is_taken(talking)  # who talks is not forgotten, however long ago it began
        assert list(found.sources) == [*others, talking]
        (call,) = server.calls._calls.values()
        streams = call._connection.getTransceivers()[0].receiver._RTCRtpReceiver__remote_streams
        assert len(streams) <= guard.MOST_SOURCES
    await until(lambda: not len(server.calls), "the call is freed")


async def hurry(caller: Caller, count: int, length: int, payload: bytes) -> None:
    """Send so many packets of ``length`` samples, faster than time, as another source."""
    dtls = caller.transceiver.sender.transport
    for number in range(count):
        header = struct.pack("!BBHLL", 128, 96, number, number * length, 7)
        await dtls._send_rtp(header + payload)
        if number % 10 == 9:
            await asyncio.sleep(0.005)


async def test_a_caller_that_sends_faster_than_time_does_not_take_the_time_of_others() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 2)
        caller.transceiver.sender.replaceTrack(None)
        before, began = await report(server, caller), time.monotonic()
        await hurry(caller, 600, 960, b"\xf8\xff\xfe")  # 12 s
        await until(lambda: dropped(server) > 100, "some are dropped")
        after = await report(server, caller)
        allowed = FASTEST * (BURST + time.monotonic() - began)
        assert after["packets"]["in"] - before["packets"]["in"] <= allowed


def dropped(server: Server) -> int:
    (call,) = server.calls._calls.values()
    found: Any = call.report()["packets"]
    return int(found["dropped"])


async def test_long_packets_faster_than_time_are_not_even_decoded() -> None:
    """Of 120 ms each, so that few a second are more audio than a second has."""
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 2)
        caller.transceiver.sender.replaceTrack(None)
        before, began = await report(server, caller), time.monotonic()
        await hurry(caller, 200, 5760, b"\xfb\x06" + b"\xff\xfe" * 6)  # 24 s, six of 20 ms in each
        await until(lambda: dropped(server) > 100, "most are dropped")
        after = await report(server, caller)
        decoded = after["network"]["received_ms"] - before["network"]["received_ms"]
        assert 0 < decoded <= 20 * FASTEST * (BURST + time.monotonic() - began) + 120


async def test_reports_without_end_cost_no_more_than_a_look() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        dtls = caller.transceiver.sender.transport
        await packets(caller, 5)
        report = bytes(RtcpRrPacket(ssrc=1, reports=[]))
        await dtls._send_rtp(report * (guard.MOST_REPORTS + 1))
        await until(lambda: caller_guard(server).refused == 1, "a crowd of them is refused")
        await dtls._send_rtp(report * guard.MOST_REPORTS)
        await packets(caller, 5)
        assert caller_guard(server).refused == 1
        for _ in range(int(3 * BURST * guard.RTCP)):
            await dtls._send_rtp(report)
        await until(lambda: caller_guard(server).refused > BURST * guard.RTCP, "the flood is refused")
        await packets(caller, 5)


async def test_one_stranger_leaves_room_for_others() -> None:
    found = guard.Guard(SimpleNamespace(_remote_candidates=[]))  # type: ignore[arg-type]
    passed: list[tuple[str, int]] = []
    data = bytes([128, 96]) + bytes(60)
    for number in range(1000):
        found.came(lambda _, address: passed.append(address), data, ("198.51.100.7", number))
    for number in range(50):
        found.came(lambda _, address: passed.append(address), data, ("203.0.113.5", 4000 + number))
    assert sum(host == "203.0.113.5" for host, _ in passed) == 50
    assert len(passed) < 1000
    for number in range(2 * guard.MOST_HOSTS):
        found.came(lambda *_: None, data, (f"192.0.2.{number}", 5000))
    assert len(found._hosts) <= guard.MOST_HOSTS


async def test_a_caller_cannot_have_packets_without_end_sent_again() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        dtls, tape = caller.transceiver.sender.transport, Tape()
        Wire(caller.transceiver, tape)
        await packets(caller, 20)
        last = caller.transceiver.receiver.getSynchronizationSources()[0].source
        nack = RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=last, lost=list(range(0, 65536, 17))[:250])
        report = RtcpRrPacket(ssrc=1, reports=[])
        for data in (bytes(nack), bytes(report) + bytes(nack)):
            await dtls._send_rtp(data)
        await until(lambda: caller_guard(server).refused >= 2, "they are refused")
        await dtls._send_rtp(bytes(report))
        await packets(caller, 5)
        assert len(tape.came.times) == len(set(tape.came.times))  # each has come once
        assert caller_guard(server).refused == 2


async def test_a_farewell_of_a_source_that_goes_on_ends_nothing() -> None:
    """Some senders say it when they pause; aiortc's receiver would be silent from then on."""
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        dtls = caller.transceiver.sender.transport
        await packets(caller, 10)
        bye = bytes(RtcpByePacket(sources=[caller.transceiver.sender._ssrc]))
        for data in (bye, bytes(RtcpRrPacket(ssrc=1, reports=[])) + bye):
            await dtls._send_rtp(data)
        await packets(caller, 100)
        assert (await report(server, caller))["packets"]["in"] > 100


async def test_a_call_whose_audio_cannot_be_read_ends() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 10)
        (call,) = server.calls._calls.values()
        assert call._track is not None
        call._track._source.stop()
        await until(lambda: not len(server.calls), "the call is freed")


async def test_a_control_channel_may_be_opened_again() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 10)
        caller.channel.close()
        (call,) = server.calls._calls.values()
        await until(lambda: call._channel.closed, "the server knows")
        again, said = caller.connection.createDataChannel("control"), []
        again.on("message", said.append)
        await until(lambda: again.readyState == "open", "it is open")
        again.send('{"enabled": false}')
        await until(lambda: any('"controls"' in text for text in said), "an answer")
        assert not (await report(server, caller))["controls"]["enabled"]


async def test_a_caller_cannot_make_the_server_send_checks_to_addresses_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its checks may come, or seem to come, from anywhere."""
    monkeypatch.setattr(guard, "FROM_ONE", guard.FROM_OTHERS)  # as if each came from a host of its own
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        ice = caller.transceiver.sender.transport.transport._connection
        username = f"{ice.remote_username}:{ice.local_username}"
        (call,) = server.calls._calls.values()
        known = call._connection.getTransceivers()[0].receiver.transport.transport._connection
        for number in range(5 * guard.MOST_ADDRESSES):  # half of them are no requests
            with stranger(caller) as send:
                send(binding(random.Random(number), username, ice.remote_password))
            await asyncio.sleep(0)
        await until(lambda: caller_guard(server).refused > guard.MOST_ADDRESSES, "others are refused")
        assert 50 < len(known._remote_candidates) <= guard.MOST_ADDRESSES
        assert (await report(server, caller))["state"] == "connected"


async def test_a_caller_that_opens_data_channels_without_end_is_hung_up_on() -> None:
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        for number in range(MOST_CHANNELS - 1):
            caller.connection.createDataChannel(str(number))
        await packets(caller, 10)
        assert len(server.calls) == 1
        caller.connection.createDataChannel("one more")
        await until(lambda: not len(server.calls), "the call is freed")


def test_what_waits_is_bounded_and_the_end_is_told() -> None:
    inbox = guard.Inbox()
    for number in range(guard.MOST_WAITING * 2):
        inbox.put_nowait((bytes(number), 1))
    inbox.put_nowait(None)
    assert inbox.qsize() == guard.MOST_WAITING + 1
    assert inbox.get_nowait() == (b"", 1)


def test_an_allowance_is_had_again_in_time() -> None:
    allowance = Allowance(10)
    now = allowance._then
    assert sum(allowance.take(now) for _ in range(100)) == 10 * BURST
    assert [allowance.take(now + 0.15) for _ in range(2)] == [True, False]
    assert sum(allowance.take(now + 1000) for _ in range(100)) == 10 * BURST


async def test_a_caller_whose_socket_falls_silent_is_noticed() -> None:
    """Long before aioice's consent checks do, which take 30 s."""
    async with serving(lost_time=2.0) as server:
        caller = Caller(server.url, SILENCE)
        async with caller:
            await packets(caller, 5)
            assert len(server.calls) == 1
            for protocol in caller.transceiver.sender.transport.transport._connection._protocols:
                protocol.transport.abort()
            assert aioice.ice.CONSENT_FAILURES * aioice.ice.CONSENT_INTERVAL == 30
            await until(lambda: not len(server.calls), "the call is freed")


async def test_a_server_that_stood_still_does_not_take_its_callers_for_lost() -> None:
    """As at ``docker pause``, or when a virtual machine moves: what came meanwhile has not been read yet."""
    async with serving(lost_time=2.0) as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 5)
        for _ in range(2):
            time.sleep(3.5)  # noqa: ASYNC251 — the event loop is to stand still
            await packets(caller, 20)
        assert (await report(server, caller))["state"] == "connected"


@pytest.mark.parametrize("sent", ["nothing", "what no key fits", "pauses"])
async def test_a_call_without_audio_is_closed_and_one_with_pauses_is_not(
    sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DTX sends a packet in 400 ms."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.2)  # the caller is there
    async with serving(idle_time=2.0) as server, Caller(server.url, SILENCE) as caller:
        transport = caller.transceiver.sender.transport
        send, number = transport._send_rtp, 0

        async def seldom(data: bytes) -> None:
            nonlocal number
            number += 1
            if 192 <= data[1] <= 223 or (sent == "pauses" and number % 20 == 0):
                await send(data)
            elif sent == "what no key fits":
                await transport.transport._send(data[:12] + secrets.token_bytes(60))

        transport._send_rtp = seldom  # type: ignore[method-assign]
        if sent == "pauses":
            await until(lambda: number > 250, "5 s have passed")
            assert len(server.calls) == 1
        else:
            await until(lambda: not len(server.calls), "the call is freed")
            assert caller.connection.connectionState in ("connected", "closed")


async def test_where_aiortc_is_not_as_expected_calls_go_on_without_a_guard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "_DTLS", ("elsewhere",))
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 5)
        assert (await report(server, caller))["datagrams"] is None
    assert "no elsewhere" in caplog.text
