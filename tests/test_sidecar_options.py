"""The sidecar's options, secrets apart from the command line."""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from calling import until

from percepnet.cli import main
from percepnet.cli import sidecar as command
from server.sidecar.livekit.options import LiveKitOptions
from server.sidecar.livekit.token import room_of, signed
from server.sidecar.options import PIN, SECRET, TOKEN, SidecarOptions
from server.sidecar.process import running_engine
from server.sidecar.sidecar import Sidecar

NEEDED = ["janus", "--url", "ws://127.0.0.1:8188"]
LIVEKIT = ["livekit", "--url", "ws://127.0.0.1:7880"]
KEYS = {"LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": "secret"}


def options(*arguments: str, **environment: str) -> SidecarOptions:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return SidecarOptions.from_arguments(parser.parse_args([*NEEDED, *arguments]), environment)


def test_rooms_are_numbers_or_texts_and_each_once() -> None:
    assert options("--room", "12", "--room", "office", "--room", "'12'", "--room", "12").rooms == (
        12,
        "office",
        "12",
    )


def test_secrets_come_from_the_environment_or_a_file(tmp_path: Path) -> None:
    assert options("--room", "1").authorization == {}
    found = options("--room", "1", **{SECRET: "s", TOKEN: "t", PIN: "p"})
    assert (found.authorization, found.pin) == ({"apisecret": "s", "token": "t"}, "p")
    (tmp_path / "secret").write_text("from a file\n")
    found = options("--room", "1", "--secret-file", str(tmp_path / "secret"), **{SECRET: "s"})
    assert found.authorization == {"apisecret": "from a file"}


def livekit_options(*arguments: str, **environment: str) -> LiveKitOptions:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return LiveKitOptions.from_arguments(parser.parse_args([*LIVEKIT, *arguments]), environment)


def token_for(room: str) -> str:
    return signed("key", "secret", room=room, identity="x", name="X", attributes={})


def test_tokens_of_livekit_are_made_for_each_room_or_come_ready(tmp_path: Path) -> None:
    rooms = livekit_options("--room", "office", "--room", "lobby", **KEYS).rooms
    assert {name: room_of(token()) for name, token in rooms.items()} == {"office": "office", "lobby": "lobby"}
    file = tmp_path / "token"
    file.write_text(token_for("office") + "\n")
    rooms = livekit_options("--token-file", str(file), LIVEKIT_TOKEN=token_for("lobby")).rooms
    file.write_text("a newer one\n")
    assert {name: token() for name, token in rooms.items()} == {
        "office": "a newer one",
        "lobby": token_for("lobby"),
    }


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--room", "office"], {}, "needs LIVEKIT_API_KEY and LIVEKIT_API_SECRET"),
        ([], KEYS, "--room, --token-file or LIVEKIT_TOKEN must name one"),
        ([], {"LIVEKIT_TOKEN": "nonsense"}, "a JWT that names its room"),
        ([], {"LIVEKIT_TOKEN": token_for("")}, "a JWT that names its room"),
    ],
)
def test_without_a_token_for_each_room_livekit_is_not_asked(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        livekit_options(*arguments, **environment)


def test_where_livekits_sdk_is_missing_its_extra_is_named() -> None:
    program = (
        "import sys\nsys.modules['livekit.rtc'] = None\n"
        "from percepnet.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    call = [sys.executable, "-c", program, "sidecar", *LIVEKIT, "--room", "office"]
    done = subprocess.run(
        call, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **KEYS}
    )
    assert done.returncode == 1
    assert (
        "percepnet: this sidecar needs LiveKit's SDK: pip install '.[livekit]' in percepnet's folder\n"
        in done.stderr
    )


def test_names_differ_and_the_enhancer_is_set_as_elsewhere() -> None:
    assert options("--room", "1").name != options("--room", "1").name
    controls = options("--room", "1", "--attenuation-limit-db", "20", "--no-postfilter").controls
    assert (controls.enabled, controls.attenuation_limit_db, controls.postfilter) == (True, 20, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["janus", "--url", "10.0.0.1:8188", "--room", "1"], "url must be ws://"),
        ([*NEEDED], "required: --room"),
        (["jitsi", "--url", "ws://127.0.0.1", "--room", "1"], "invalid choice: 'jitsi'"),
        ([*NEEDED, "--room", "1", "--publishers", "0"], "allowed are whole numbers from 1"),
        ([*NEEDED, "--room", "1", "--ice-server", "http://x"], "ICE server must be"),
    ],
)
def test_errors_name_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["sidecar", *arguments])
    assert message in capsys.readouterr().err


async def test_a_password_in_an_address_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    chosen = SidecarOptions(
        url=f"ws://user:secret@127.0.0.1:{port}/key", name="one", rooms=(1,), authorization={}
    )
    async with running_engine(chosen) as engine:
        life = asyncio.create_task(Sidecar(chosen, engine).run())
        await until(lambda: f"no session with ws://127.0.0.1:{port}: " in caplog.text, "the log")
        life.cancel()
        await asyncio.wait([life])
    assert "secret" not in caplog.text
    assert "key" not in caplog.text
