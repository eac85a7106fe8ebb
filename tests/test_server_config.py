"""Options: arguments before environment before defaults, and errors that name the value."""

import argparse
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from server import edge
from server.config import Config, IceServer
from server.media.opus import OpusOptions


def parsed(*arguments: str, environment: dict[str, str] | None = None) -> Config:
    parser = argparse.ArgumentParser()
    Config.add_arguments(parser)
    return Config.from_arguments(parser.parse_args(arguments), environment or {})


def test_without_anything_it_is_the_defaults_and_asks_no_outside_server() -> None:
    assert parsed() == Config()
    assert Config().ice_servers == ()
    assert Config().host == "127.0.0.1"


def test_the_limits_are_those_that_are_promised() -> None:
    config = Config()
    assert (config.connect_timeout, config.lost_time, config.idle_time, config.max_call_time) == (
        15,
        8,
        60,
        4 * 3600,
    )
    assert (config.max_calls_per_address, config.offers_per_second, config.max_listeners) == (16, 5, 256)
    assert (config.queue_packets, config.drain_time) == (25, 10)
    assert (edge.LARGEST_BODY, edge.BODY_TIME, edge.IDLE_TIME) == (65_536, 10, 30)
    readme = " ".join((Path(__file__).parent.parent / "README.md").read_text().split())
    assert f"A caller that vanishes is noticed in {config.lost_time:g} s" in readme
    assert f"a body has {edge.LARGEST_BODY // 1024} KiB and {edge.BODY_TIME:g} s" in readme


def test_arguments_come_before_the_environment() -> None:
    environment = {"PERCEPNET_PORT": "1", "PERCEPNET_HOST": "::", "PERCEPNET_MODEL": "a.onnx"}
    config = parsed("--port", "2", "--max-calls", "5", environment=environment)
    assert (config.port, config.host, config.model, config.max_calls) == (2, "::", Path("a.onnx"), 5)


def test_an_empty_variable_gives_nothing_and_a_misspelt_one_is_told() -> None:
    variables = {f"PERCEPNET_{option.name.upper()}": " " for option in fields(Config)}
    assert parsed(environment=variables) == Config()
    others = {"PERCEPNET_SERVICE_HOST": "10.0.0.1", "PERCEPNET_PORT": "1", "PERCEPNET_JANUS_SECRET": "x"}
    wrong = {"PERCEPNET_TOKEN": "x", "PERCEPNET_ICE_SERVER": "stun:h", "PERCEPNET_ALLOW_ORIGIN": "x"}
    assert Config.misspelt(others | wrong) == {name: name + "S" for name in wrong}


def test_ice_servers_from_both() -> None:
    stun = IceServer("stun:example.org:3478")
    turn = IceServer("turn:example.org:3478?transport=tcp", "ann", "p:s@w")
    written = ("stun:example.org:3478", "turn:ann:p%3As%40w@example.org:3478?transport=tcp")
    assert parsed("--ice-server", written[0], "--ice-server", written[1]).ice_servers == (stun, turn)
    assert parsed(environment={"PERCEPNET_ICE_SERVERS": " ".join(written)}).ice_servers == (stun, turn)


def test_a_password_is_in_no_error_and_no_text_of_the_options() -> None:
    with pytest.raises(ValueError, match="ICE server must be") as error:
        IceServer.parse("http:ann:hunter2@example.org")
    for text in ("turn:ann:hunter2", "turn:ann:hunter2%0a@example.org", "turn:ann:x@example.org:hunter2"):
        with pytest.raises(ValueError, match="ICE server must be") as other:
            IceServer.parse(text)
        assert "hunter2" not in str(other.value)
    config = parsed(environment={"PERCEPNET_TURN_SECRET": "hunter2", "PERCEPNET_TOKENS": "hunter2 hunter22"})
    assert (config.turn_secret, config.tokens) == ("hunter2", ("hunter2", "hunter22"))
    shown = f"{error.value} {config!r} {IceServer('turn:example.org', 'ann', 'hunter2')!r}"
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    "place",
    [
        "h:0",
        "h:65536",
        "[2001:db8::1]",
        "2001:db8::1",
        "h:port",
        "h?transport=udp",
        "h:1?transport=tls",
        "a b",
    ],
)
def test_ice_servers_that_no_call_could_use_are_refused_at_the_start(place: str) -> None:
    with pytest.raises(ValueError, match=r"HOST a name or IPv4 address, PORT 1…65535"):
        IceServer.parse(f"stun:{place}")


def test_a_line_break_after_a_secret_is_none_of_it() -> None:
    config = parsed(environment={"PERCEPNET_TURN_SECRET": "abc\n", "PERCEPNET_FORWARD_TOKEN": " tok\r\n"})
    assert (config.turn_secret, config.forward_token) == ("abc", "tok")
    with pytest.raises(ValueError, match="PERCEPNET_FORWARD_TOKEN: must hold no control characters"):
        parsed(environment={"PERCEPNET_FORWARD_TOKEN": "to\nk"})


def test_options_of_public_hosts() -> None:
    config = parsed(
        *("--udp-ports", "40000-40099", "--advertise-address", "192.0.2.1", "--trust-forwarded", "::1"),
        environment={"PERCEPNET_ALLOW_ORIGINS": "https://a.example http://localhost:3000"},
    )
    assert (len(config.udp_ports or ()), config.advertise_address) == (100, "192.0.2.1")
    assert config.allow_origins == ("https://a.example", "http://localhost:3000")
    assert [str(network) for network in config.trust_forwarded] == ["::1/128"]


def test_options_of_opus() -> None:
    config = parsed("--opus-fec", "on", "--opus-bitrate", "32000", environment={"PERCEPNET_OPUS_DTX": "on"})
    assert config.opus == OpusOptions(bitrate=32_000, fec=True, dtx=True, stereo=False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("max-calls", "0"),
        ("max-calls", "2.5"),
        ("connect-timeout", "nan"),
        ("queue-packets", "1"),
        ("workers", "0"),
        ("drain-time", "-1"),
        ("ice-server", "example.org"),
        ("opus-bitrate", "5999"),
        ("opus-fec", "yes"),
        ("access", "closed"),
        ("allow-origin", "https://example.org/page"),
        ("allow-origin", "https://example.org:443"),
        ("allow-origin", "http://localhost:65536"),
        ("forward", "http://[::1/whip/{room}"),
        ("forward", "http://example.org:65536/whip"),
        ("trust-forwarded", "10.0.0.1/8"),
        ("advertise-address", "example.org"),
        ("udp-ports", "5000"),
        ("udp-ports", "6000-5000"),
        ("idle-time", "0"),
    ],
)
def test_a_bad_value_is_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(f"--{option}", value)
    assert value in capsys.readouterr().err
    variable = (
        "PERCEPNET_"
        + option.upper().replace("-", "_")
        + ("S" if option in ("ice-server", "allow-origin") else "")
    )
    with pytest.raises(ValueError, match=variable):
        parsed(environment={variable: value})


def test_every_option_has_an_argument_with_help_and_cannot_change(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    for option in fields(Config):
        # secrets come from the environment or a file
        if option.name in ("tokens", "turn_secret", "forward_token"):
            assert "--" + option.name.replace("_", "-") + " " not in shown
            continue
        assert "--" + option.name.replace("_", "-").removesuffix("s") in shown
    with pytest.raises(FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]
