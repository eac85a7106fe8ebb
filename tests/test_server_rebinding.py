"""Callers whose address changes in the middle of a call."""

import asyncio
import logging
import socket
from types import SimpleNamespace
from typing import Any

import aioice
import numpy as np
import pytest
from aiortc import RTCPeerConnection
from caller import Caller
from calling import TIMEOUT, packets, serving, until

from percepnet.framing import Pcm
from server.media import rebinding
from server.weather.conditions import Weather
from server.weather.relay import Relay

BEGIN = 1.0  # s after the first packet


def ice_of(connection: RTCPeerConnection) -> aioice.Connection:
    (transceiver,) = connection.getTransceivers()
    return transceiver.receiver.transport.transport._connection


async def test_a_call_goes_on_from_another_address(speech: Pcm) -> None:
    relay = Relay(Weather(rebind=True, begin=BEGIN), "1")
    async with serving() as server, Caller(server.url, speech, relay=relay) as caller:
        call = server.calls.get(caller.id)
        before = ice_of(call._connection)._nominated[1].remote_addr
        await until(lambda: call._rebinding is not None and call._rebinding.moves == 1, "the server follows")
        assert ice_of(call._connection)._nominated[1].remote_addr != before
        await packets(caller, 100)
        assert call._rebinding is not None
        assert call._rebinding.moves == 1
        report = await (await server.http.get(f"/calls/{caller.id}")).json()
        assert report["state"] == "connected"


async def test_a_stranger_moves_nobody(speech: Pcm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends what looks like audio, and answers the server's question as well as it can without the passwords."""
    monkeypatch.setattr(rebinding, "ASKED_EVERY", 0.0)
    loop = asyncio.get_running_loop()
    async with serving() as server, Caller(server.url, speech) as caller:
        call = server.calls.get(caller.id)
        pair = ice_of(call._connection)._nominated[1]
        family = socket.AF_INET6 if ":" in pair.local_addr[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.bind((pair.local_addr[0], 0))
            for _ in range(3):
                await loop.sock_sendto(stranger, b"\x80\x6f" + bytes(50), pair.local_addr)
                async with asyncio.timeout(TIMEOUT):
                    asked, _ = await loop.sock_recvfrom(stranger, 2000)
                question = aioice.stun.parse_message(asked)
                answer = aioice.stun.Message(
                    message_method=aioice.stun.Method.BINDING,
                    message_class=aioice.stun.Class.RESPONSE,
                    transaction_id=question.transaction_id,
                )
                answer.attributes["XOR-MAPPED-ADDRESS"] = pair.local_addr
                answer.add_message_integrity(b"a guess")
                await loop.sock_sendto(stranger, bytes(answer), pair.local_addr)
        await packets(caller, 20)
        assert ice_of(call._connection)._nominated[1] is pair
        assert call._rebinding is not None
        assert call._rebinding.moves == 0


async def test_where_a_stranger_sends_as_from_is_asked_twice_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However often it sends, and whether or not somebody answers there."""
    now, asked, passed = 0.0, [], []

    async def request(*arguments: object, **options: object) -> None:
        asked.append(now)
        raise aioice.stun.TransactionTimeout

    caller = SimpleNamespace(remote_addr=("192.0.2.1", 5000), remote_candidate=SimpleNamespace(priority=1))
    ice: Any = SimpleNamespace(
        _nominated={1: caller},
        _check_list=[],
        _remote_candidates=[],
        remote_password="secret",
        build_request=lambda *_, **__: None,
    )
    caller.protocol = SimpleNamespace(
        request=request, datagram_received=lambda data, addr: passed.append(addr)
    )
    ice._protocols = [caller.protocol]
    monkeypatch.setattr(rebinding, "time", SimpleNamespace(monotonic=lambda: now))
    rebinding.Rebinding(ice)
    for number in range(1000):
        now = number / 100
        caller.protocol.datagram_received(b"\x80\x6f" + bytes(50), ("198.51.100.7", number))
        for _ in range(3):
            await asyncio.sleep(0)  # the question is over
    assert len(asked) == 20
    assert np.diff(asked).min() >= 0.5
    assert len(passed) == 1000


async def test_a_stranger_who_does_not_answer_keeps_nobody_from_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, asked = 0.0, []

    async def request(message: object, address: tuple[str, int], **options: object) -> None:
        asked.append((now, address))
        await asyncio.Event().wait()

    moved, checked = ("203.0.113.5", 4000), ("203.0.113.6", 4001)
    ice: Any = SimpleNamespace(
        _nominated={
            1: SimpleNamespace(
                remote_addr=("192.0.2.1", 5000), remote_candidate=SimpleNamespace(priority=1), protocol=None
            )
        },
        _check_list=[],
        _remote_candidates=[SimpleNamespace(_network_host=checked[0], port=checked[1])],
        remote_password="secret",
        build_request=lambda *_, **__: None,
    )
    protocol = SimpleNamespace(request=request, datagram_received=lambda data, addr: None)
    ice._protocols = [protocol]
    monkeypatch.setattr(rebinding, "time", SimpleNamespace(monotonic=lambda: now))
    found = rebinding.Rebinding(ice)
    rtp = b"\x80\x6f" + bytes(50)
    for number in range(100):
        now = number / 100
        protocol.datagram_received(rtp, ("198.51.100.7", number))
        if number > 1:
            protocol.datagram_received(rtp, moved)
        if number == 20:
            protocol.datagram_received(rtp, checked)  # ICE knows it
        await asyncio.sleep(0)
    assert [address for _, address in asked] == [("198.51.100.7", 0), checked, moved]
    assert asked[1][0] == 0.2
    await found.close()
    assert found._asking == {}


class Other:
    _connection: Any = object()


def test_another_aioice_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert rebinding.install(Other()) is None  # type: ignore[arg-type]
    assert aioice.__version__ in caplog.text
    assert "_nominated" in caplog.text
