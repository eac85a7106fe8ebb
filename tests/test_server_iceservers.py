"""STUN and TURN servers: what callers are told, and passwords of limited time."""

import base64
import hashlib
import hmac
import time
from dataclasses import replace
from pathlib import Path

import pytest
from calling import serving

from server import iceservers
from server.config import Config
from server.values import IceServer

SECRET = "north wind and sun"
STUN, TURN = IceServer("stun:192.0.2.1:3478"), IceServer("turn:192.0.2.1:3478")
KNOWN = IceServer("turn:192.0.2.2", "ann", "password")


async def test_callers_are_told_the_servers_with_passwords_that_end_with_the_longest_call() -> None:
    options = {"ice_servers": (STUN, TURN, KNOWN), "turn_secret": SECRET, "max_call_time": 600.0}
    async with serving(**options) as server, server.http.get("/config") as answer:
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"
        stun, turn, known = (await answer.json())["iceServers"]
    assert stun == {"urls": "stun:192.0.2.1:3478"}
    assert known == {"urls": "turn:192.0.2.2", "username": "ann", "credential": "password"}
    assert 600 <= int(turn["username"]) - time.time() < 700
    digest = hmac.new(SECRET.encode(), turn["username"].encode(), hashlib.sha1).digest()
    assert base64.b64decode(turn["credential"]) == digest


async def test_without_servers_none_are_told() -> None:
    async with serving() as server, server.http.get("/config") as answer:
        assert await answer.json() == {"iceServers": []}


def test_a_secret_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"# of coturn\n{SECRET}\n")
    config = Config(ice_servers=(TURN,), turn_secret_file=file)
    assert iceservers.with_secret(config).turn_secret == SECRET
    file.write_text("")
    with pytest.raises(ValueError, match="must have one line"):
        iceservers.with_secret(config)
    with pytest.raises(FileNotFoundError):
        iceservers.with_secret(replace(config, turn_secret_file=tmp_path / "none"))
    with pytest.raises(ValueError, match="no --ice-server turn:HOST") as error:
        iceservers.with_secret(Config(ice_servers=(STUN, KNOWN), turn_secret=SECRET))
    assert SECRET not in str(error.value)
    for server in (TURN, IceServer("turns:192.0.2.1")):
        with pytest.raises(ValueError, match=f"{server.url} has no user: allowed is turn:USER:PASSWORD@HOST"):
            iceservers.with_secret(Config(ice_servers=(STUN, server)))
