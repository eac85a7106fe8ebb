"""Calls through Debian's coturn, for callers and servers that reach each other in no other way."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection
from caller import Caller
from calling import TIMEOUT, packets, serving

from percepnet.framing import Pcm
from server.config import IceServer
from server.loadtest.hearing import enhancement, is_enhanced, lag

RATE = 48_000
SECRET = "of the tests"  # that coturn shares with whoever gives out credentials
VALID = 3600  # s
BINDING = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)  # a request (RFC 8489, 5)


class Turn:
    """A running coturn, and who gives out credentials for it."""

    def __init__(self, port: int) -> None:
        self.url = f"turn:127.0.0.1:{port}?transport=udp"

    def credentials(self, seconds: float) -> tuple[str, str]:
        """User and password that are good for so long (draft-uberti-behave-turn-rest)."""
        user = f"{int(time.time() + seconds)}:caller"
        digest = hmac.digest(SECRET.encode(), user.encode(), hashlib.sha1)
        return user, base64.b64encode(digest).decode()

    def only(self, seconds: float = VALID) -> RTCConfiguration:
        """Of a caller that has no other way."""
        user, password = self.credentials(seconds)
        return RTCConfiguration(
            iceServers=[RTCIceServer(self.url, user, password)],
            iceTransportPolicy=RTCIceTransportPolicy.RELAY,
        )


@pytest.fixture
async def turn(tmp_path: Path) -> AsyncIterator[Turn]:
    program = shutil.which("turnserver")
    assert program is not None, "no coturn: apt-get install coturn, or bash tests/run"
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        *("-n", "--listening-ip", "127.0.0.1", "--listening-port", str(port), "--relay-ip", "127.0.0.1"),
        *("--use-auth-secret", "--static-auth-secret", SECRET, "--realm", "tests", "--allow-loopback-peers"),
        *("--no-cli", "--no-tls", "--no-dtls", "--log-file", "/dev/null"),
        *("--userdb", str(tmp_path / "users"), "--pidfile", str(tmp_path / "pid")),
    ]
    process = await asyncio.create_subprocess_exec(
        program, *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        await answers(port)
        yield Turn(port)
    finally:
        process.kill()
        await process.wait()


async def answers(port: int) -> None:
    """Wait until a STUN server is there: ask it for our address until it says so."""
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as end:
        end.setblocking(False)
        end.connect(("127.0.0.1", port))
        async with asyncio.timeout(TIMEOUT):
            while True:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    await loop.sock_sendall(end, BINDING)
                    async with asyncio.timeout(0.1):
                        await loop.sock_recv(end, 1000)
                        return


def way(connection: RTCPeerConnection) -> tuple[str, str]:
    """Kinds of the candidates, ours and theirs, between which the packets of a connection go."""
    (transceiver,) = connection.getTransceivers()
    pair = transceiver.receiver.transport.transport._connection._nominated[1]
    return pair.local_candidate.type, pair.remote_candidate.type


async def assert_enhanced(caller: Caller, said: Pcm) -> None:
    await packets(caller, 175)
    heard = caller.heard()
    late = lag(np.resize(said, len(heard)), heard)
    assert late is not None
    sent = np.roll(np.resize(said, len(said) * 3), late)[RATE : len(heard)]
    change = enhancement(sent, heard[RATE:], np.ones(len(sent), bool))
    assert change is not None
    assert is_enhanced(*change)


async def test_a_caller_with_nothing_but_a_relay_is_enhanced(speech: Pcm, turn: Turn) -> None:
    async with serving() as server, Caller(server.url, speech, configuration=turn.only()) as caller:
        assert caller.connection.localDescription.sdp.count(" typ ") > 0
        assert "typ host" not in caller.connection.localDescription.sdp
        assert way(caller.connection)[0] == "relay"
        await assert_enhanced(caller, speech)


class Relayed:
    """A network through which only relayed addresses are reached."""

    async def offered(self, sdp: str) -> str:
        return sdp

    def answered(self, sdp: str) -> str:
        lines = sdp.splitlines()
        kept = [line for line in lines if not line.startswith("a=candidate:") or "typ relay" in line]
        assert len(kept) < len(lines)
        return "\r\n".join(kept) + "\r\n"

    async def close(self) -> None:
        pass


async def test_a_server_that_is_reached_through_a_relay_alone_enhances(speech: Pcm, turn: Turn) -> None:
    own = IceServer(turn.url, *turn.credentials(VALID))
    async with (
        serving(ice_servers=(own,)) as server,
        Caller(server.url, speech, relay=Relayed(), configuration=turn.only()) as caller,  # type: ignore[arg-type]
    ):
        assert way(server.calls.get(caller.id)._connection) == ("relay", "relay")
        await assert_enhanced(caller, speech)


async def test_credentials_whose_time_is_over_open_nothing(turn: Turn) -> None:
    connection = RTCPeerConnection(turn.only(seconds=-60))
    connection.addTransceiver("audio")
    await connection.setLocalDescription(await connection.createOffer())
    assert "a=candidate" not in connection.localDescription.sdp
    await connection.close()
