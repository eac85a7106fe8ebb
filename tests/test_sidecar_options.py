"""The sidecar's options, secrets apart from the command line."""

import argparse
from pathlib import Path

import pytest

from percepnet.cli import main
from percepnet.cli import sidecar as command
from server.sidecar.options import PIN, SECRET, TOKEN, SidecarOptions

NEEDED = ["janus", "--url", "ws://127.0.0.1:8188"]


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
