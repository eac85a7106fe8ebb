"""Sockets of calls: ports of a range, the address in the answer of hosts behind another, and no descriptors left."""

import asyncio
import errno
import re
import socket
from contextlib import ExitStack
from typing import Any

import aiohttp
import aioice.ice
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCIceGatherer, RTCPeerConnection
from aiortc.sdp import SessionDescription
from caller import Caller
from calling import Server, given_back, holdings, offered, packets, serving, until

from server import eventloop
from server.advertise import advertised
from server.media import ports
from server.media.ports import Sockets

SILENCE = np.zeros(960, np.int16)
ANSWER = "\r\n".join(
    (
        "v=0",
        "c=IN IP4 10.0.0.5",
        "a=candidate:1 1 udp 2130706431 10.0.0.5 40000 typ host",
        "a=candidate:2 1 udp 2130706431 2001:db8::5 40001 typ host",
        "a=candidate:3 1 udp 1694498815 198.51.100.7 40002 typ srflx raddr 10.0.0.5 rport 40000",
        "a=candidate:4 1 udp 16777215 203.0.113.1 50000 typ relay raddr 10.0.0.5 rport 40003",
        "c=IN IP4 203.0.113.1",
        "",
    )
)


@pytest.fixture
def free_ports() -> range:
    """Some ports that nobody has at the moment."""
    for low in range(12_000, 30_000, 100):
        ports = range(low, low + 8)
        with ExitStack() as held:
            try:
                for port in ports:
                    sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.bind(("0.0.0.0", port))
            except OSError:
                continue
            return ports
    pytest.fail("no free ports")


async def offer(server: Server) -> tuple[int, dict[str, str]]:
    connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    connection.addTransceiver("audio")
    await connection.setLocalDescription(await connection.createOffer())
    body = {"sdp": connection.localDescription.sdp, "type": "offer"}
    await connection.close()
    async with server.http.post("/offer", json=body) as answer:
        assert answer.status == 201 or answer.headers["Retry-After"]
        return answer.status, await answer.json()


async def test_calls_have_ports_of_the_range_until_none_is_free(free_ports: range) -> None:
    async with serving(udp_ports=free_ports, max_calls=32) as server:
        async with Caller(server.url, SILENCE) as caller:
            await packets(caller, 5)
            session = SessionDescription.parse(caller.connection.remoteDescription.sdp)
            candidates = session.media[0].ice_candidates
            assert candidates
            assert {candidate.port for candidate in candidates} <= set(free_ports)
            own = caller.connection.localDescription.sdp  # of the same event loop
            assert not {c.port for c in SessionDescription.parse(own).media[0].ice_candidates} & set(
                free_ports
            )
            for _ in range(len(free_ports) - 1):
                assert (await offer(server))[0] == 201
            before = holdings()
            del before["tasks"]  # checks of the calls that are about to connect come and go
            status, body = await offer(server)
            assert (status, len(server.calls)) == (503, len(free_ports))
            assert f"no UDP port of {free_ports.start}-{free_ports.stop - 1} is free" in body["error"]
            await given_back(before)
            await packets(caller, 5)
        await until(lambda: len(server.calls) < len(free_ports), "the call is freed")
        assert (await offer(server))[0] == 201


async def test_a_range_that_is_used_up_at_one_address_is_used_up(
    free_ports: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else an answer would name a port at which nobody is, or somebody else."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda *_, **__: ["127.0.0.1", "127.0.0.2"])
    async with serving(udp_ports=free_ports) as server:
        with ExitStack() as held:
            for port in free_ports:
                held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("127.0.0.2", port))
            async with server.http.get("/healthz"):  # the client keeps its connection
                before = holdings()
            status, body = await offer(server)
            assert (status, len(server.calls)) == (503, 0)
            assert "no UDP port" in body["error"]
            await given_back(before)
        assert (await offer(server))[0] == 201


@pytest.mark.parametrize("ranged", [False, True])
async def test_where_the_advertised_address_is_the_machines_own_sockets_are_there_only(
    ranged: bool, free_ports: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [f"127.0.0.{n}" for n in range(1, 30)]
    for module in (aioice.ice, ports):
        monkeypatch.setattr(module, "get_host_addresses", lambda *_, **__: addresses)
    udp_ports = free_ports if ranged else None
    async with serving(advertise_address="127.0.0.7", udp_ports=udp_ports) as server:
        status, body = await offer(server)
        assert status == 201
        hosts = re.findall(r"a=candidate:\S+ \d+ udp \d+ (\S+) (\d+) typ host", body["sdp"])
        ((host, port),) = hosts
        assert host == "127.0.0.7"
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
            pytest.raises(OSError, match="in use"),
        ):
            sock.bind((host, int(port)))


def test_the_servers_own_event_loop_binds_in_the_range(free_ports: range) -> None:
    async def bound() -> list[int]:
        sockets = Sockets(free_ports[:2])
        loop, found = asyncio.get_running_loop(), []
        with sockets.binding():
            for _ in range(2):
                endpoint = loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
                )
                transport, _ = await asyncio.create_task(endpoint)
                found.append(transport)
            with pytest.raises(OSError, match="no UDP port of"):
                await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        assert sockets.exhausted
        numbers = [transport.get_extra_info("sockname")[1] for transport in found]
        for transport in found:
            transport.close()
        return numbers

    assert sorted(eventloop.run(bound())) == list(free_ports[:2])


def test_only_candidates_of_the_host_itself_are_rewritten() -> None:
    rewritten = advertised(ANSWER, "192.0.2.1").splitlines()
    changed = {n: line for n, line in enumerate(rewritten) if line != ANSWER.splitlines()[n]}
    assert changed == {
        1: "c=IN IP4 192.0.2.1",
        2: "a=candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host",
    }
    six = advertised(ANSWER, "2001:db8::1").splitlines()
    assert six[3] == "a=candidate:2 1 udp 2130706431 2001:db8::1 40001 typ host"
    assert [line for n, line in enumerate(six) if n != 3] == [
        line for n, line in enumerate(ANSWER.splitlines()) if n != 3
    ]


async def test_an_answer_has_the_advertised_address() -> None:
    async with serving(advertise_address="192.0.2.1") as server:
        status, body = await offer(server)
    assert status == 201
    hosts = re.findall(r"a=candidate:\S+ \d+ udp \d+ (\S+) \d+ typ host", body["sdp"])
    assert {host for host in hosts if ":" not in host} == {"192.0.2.1"}
    connections = set(re.findall(r"c=IN IP4 (\S+)", body["sdp"]))
    assert connections <= {"192.0.2.1", "0.0.0.0"}


async def test_a_caller_that_hides_its_addresses_is_found_by_its_own_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As browsers do with names of multicast DNS, which the server does not ask the network for."""
    post = aiohttp.ClientSession.post

    def hiding(self: aiohttp.ClientSession, url: str, *, json: dict[str, Any]) -> Any:
        hidden = re.sub(r"(a=candidate:\S+ \d+ udp \d+ )\S+", r"\g<1>9b36eaac-bb2e.local", json["sdp"])
        assert "a=end-of-candidates" in hidden
        return post(self, url, json={**json, "sdp": hidden})

    async def asked(subscriber: object) -> Any:
        raise AssertionError("the network is asked")

    monkeypatch.setattr(aiohttp.ClientSession, "post", hiding)
    monkeypatch.setattr(aioice.ice, "get_or_create_mdns_protocol", asked)
    async with serving() as server, Caller(server.url, SILENCE) as caller:
        await packets(caller, 5)
        report = await (await server.http.get(f"/calls/{caller.id}")).json()
    assert report["state"] == "connected"


async def test_a_server_without_descriptors_is_full_and_not_the_offer_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def bind(*args: object, **more: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with serving() as server:
        offer = await offered()
        for name, error in (
            ("setLocalDescription", "Too many open files"),
            ("getLocalCandidates", "no UDP socket"),
        ):
            with monkeypatch.context() as patch:
                if name == "setLocalDescription":
                    patch.setattr(RTCPeerConnection, name, bind)
                else:
                    patch.setattr(RTCIceGatherer, name, lambda self: [])
                async with server.http.post("/offer", json=offer) as answer:
                    assert (answer.status, "Retry-After" in answer.headers) == (503, True)
                    assert error in (await answer.json())["error"]
            assert not len(server.calls)
        stats = await (await server.http.get("/stats")).json()
        assert stats["workers"][0]["refused"] == 2
