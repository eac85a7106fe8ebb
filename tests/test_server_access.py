"""Who may call: tokens at every route, other origins, TLS, and what is never shown."""

import asyncio
import ipaddress
import json
import logging
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from calling import Server, offered, serving
from cryptography.hazmat.primitives import serialization
from processes import served

from percepnet.cli import main
from server import tls
from server.access import SHORTEST_TOKEN, Tokens
from server.app import create_app, static_folder
from server.config import Config
from server.front import create_front
from server.workers import Workers

TOKEN = "correct.horse-battery_staple"
OTHER = "another-token-of-the-same-server"
PUBLIC = {
    *{("GET", "/"), ("GET", "/admin"), ("GET", "/healthz"), ("GET", "/{path}")},
    *{(method, f"/{kind}/{{room}}") for method in ("GET", "OPTIONS") for kind in ("whip", "whep")},
}  # whatever else there is needs a token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(tokens=(TOKEN, OTHER)) as server:
        yield server


def routes(app: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.method != "HEAD" and route.resource is not None
    }


@pytest.fixture(params=["alone", "front"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[web.Application]:
    """The whole application that others reach; a front whose workers are not there."""
    config = Config(tokens=(TOKEN,))
    if request.param == "alone":
        yield create_app(config)
    else:
        async with Workers(config, 2, lambda *_: None) as workers:
            yield create_front(config, workers, static_folder())


async def test_every_route_but_the_page_and_its_health_needs_a_token(app: web.Application) -> None:
    app.cleanup_ctx.clear()  # no engine: nothing that needs one may be reached
    app.on_shutdown.clear()
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    found = routes(app)
    assert found > PUBLIC
    assert {("POST", "/offer"), ("GET", "/stats"), ("GET", "/config")} < found - PUBLIC
    assert {method for method, path in found if path == "/calls/{id}"} == {"GET", "PATCH", "DELETE"}
    try:
        async with aiohttp.ClientSession(url) as http:
            for method, path in sorted(found - PUBLIC):
                for headers in ({}, bearer("wrong" * 4), {"Authorization": f"Basic {TOKEN}"}, bearer("")):
                    where = path.replace("{id}", "0.abc").replace("{room}", "desk")
                    async with http.request(method, where, headers=headers, json={}) as answer:
                        assert answer.status == 401, (method, path, headers)
                        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                        assert "token" in (await answer.json())["error"]
                        assert "Content-Security-Policy" in answer.headers
            for method, path in sorted(PUBLIC - {("GET", "/healthz")}):
                async with http.request(
                    method, path.replace("{path}", "call.js").replace("{room}", "desk")
                ) as answer:
                    assert answer.ok
    finally:
        await runner.cleanup()


async def test_a_call_is_made_heard_changed_and_ended_with_any_of_the_tokens(server: Server) -> None:
    body = await offered()
    async with server.http.post("/offer", json=body) as answer:
        assert answer.status == 401
    assert len(server.calls) == 0
    async with server.http.post("/offer", json=body, headers=bearer(TOKEN)) as answer:
        assert answer.status == 201
        call = f"/calls/{(await answer.json())['id']}"
    for method in ("GET", "PATCH", "DELETE"):
        async with server.http.request(method, call, json={"enabled": False}) as answer:
            assert answer.status == 401
    assert len(server.calls) == 1
    async with server.http.get(call, headers=bearer(OTHER)) as answer:
        assert (await answer.json())["controls"]["enabled"] is True
    async with server.http.get("/stats", headers={"Authorization": f"bearer {OTHER}"}) as answer:
        assert answer.status == 200
    async with server.http.delete(call, headers=bearer(OTHER)) as answer:
        assert answer.status == 204
    async with server.http.get("/healthz") as answer:
        assert answer.status == 200


async def test_tokens_are_in_no_log_error_or_answer(
    server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "what-a-caller-mistyped-1"
    shown = []
    for token in (TOKEN, secret):
        async with server.http.post("/offer", json={}, headers=bearer(token)) as answer:
            shown.append(await answer.text())
    config = Config(tokens=(TOKEN,), turn_secret=secret)
    shown += [repr(config), repr(Tokens.of(config)), str(vars(Tokens.of(config)))]
    for bad in (Config(tokens=("short",)), Config(access="open", tokens=(TOKEN,))):
        with pytest.raises(ValueError, match="token") as error:
            Tokens.of(bad)
        shown.append(str(error.value))
    assert "had no valid token" in caplog.text
    for text in (*shown, caplog.text):
        assert TOKEN not in text
        assert secret not in text
        assert "short" not in text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_an_address_that_others_reach_needs_tokens_or_a_clear_word(host: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--token-file FILE, PERCEPNET_TOKENS, or --access open"):
        create_app(Config(host=host))
    assert Tokens.of(Config(host=host, access="open")) is None
    assert Tokens.of(Config(host=host, tokens=(TOKEN,))) is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_open_unless_there_are_tokens(host: str, tmp_path: Path) -> None:
    assert Tokens.of(Config(host=host)) is None
    proxied = Config(host=host, trust_forwarded=(ipaddress.ip_network("127.0.0.1"),))
    with pytest.raises(ValueError, match="behind a proxy, which --trust-forwarded says it is, needs tokens"):
        Tokens.of(proxied)
    assert Tokens.of(replace(proxied, access="open")) is None
    assert Tokens.of(Config(host=host, tokens=(TOKEN,))) is not None
    with pytest.raises(ValueError, match="--access token needs tokens"):
        Tokens.of(Config(host=host, access="token"))
    empty = tmp_path / "none"
    empty.write_text("# nothing\n\n")
    with pytest.raises(ValueError, match=f"none is in {empty}"):
        Tokens.of(Config(host=host, token_file=empty))


def test_a_file_has_a_token_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# in use since May\n{TOKEN}\n\n  {OTHER}  \r\n")
    file.chmod(0o600)
    tokens = Tokens.of(Config(token_file=file, tokens=("x" * SHORTEST_TOKEN,)))
    assert tokens is not None
    assert not caplog.text
    for token in (TOKEN, OTHER, "x" * SHORTEST_TOKEN):
        assert tokens.accept(f"Bearer {token}")
        assert not tokens.accept(f"Bearer {token[:-1]}")
        assert not tokens.accept(token)
    for header in (None, "", "Bearer", "Bearer  ", "Bearer \udcff", "Bearer # in use since May"):
        assert not tokens.accept(header)
    file.write_bytes(b"\xff\n" + TOKEN.encode())
    with pytest.raises(ValueError, match=f"{file}, line 1"):
        Tokens.of(Config(token_file=file))
    with pytest.raises(FileNotFoundError):
        Tokens.of(Config(token_file=tmp_path / "missing"))
    file.chmod(0o644)
    file.write_text(TOKEN)
    Tokens.of(Config(token_file=file))
    assert "chmod 600" in caplog.text
    caplog.clear()
    # a container's user, who cannot change it
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    Tokens.of(Config(token_file=file))
    assert not caplog.text


async def test_pages_of_allowed_origins_may_call_and_others_may_not() -> None:
    friend, stranger = "https://friend.example", "https://stranger.example"
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with serving(tokens=(TOKEN,), allow_origins=(friend, "http://localhost:3000")) as server:
        for path in ("/offer", "/calls/0.abc", "/stats"):
            async with server.http.options(path, headers={"Origin": friend, **ask}) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == friend
                assert {"PATCH", "DELETE"} < set(answer.headers["Access-Control-Allow-Methods"].split(", "))
                assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
            for origin in (stranger, "null", friend + ".evil.example", "http://friend.example"):
                async with server.http.options(path, headers={"Origin": origin, **ask}) as answer:
                    assert answer.status == 403
                    assert origin in (await answer.json())["error"]
                    assert "Access-Control-Allow-Origin" not in answer.headers
        for origin, seen in ((friend, friend), (stranger, None)):
            for token, status in ((TOKEN, 400), ("wrong" * 4, 401)):
                headers = {"Origin": origin, **bearer(token)}
                async with server.http.post("/offer", json={}, headers=headers) as answer:
                    assert answer.status == status
                    assert answer.headers.get("Access-Control-Allow-Origin") == seen
                    assert answer.headers["Vary"] == "Origin"
    async with (
        serving() as server,
        server.http.options("/offer", headers={"Origin": friend, **ask}) as answer,
    ):
        assert answer.status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "192.168.1.2", "localhost.evil", "[::1", ""]
)
async def test_a_page_that_gives_its_name_to_this_machine_reaches_nothing(host: str) -> None:
    """DNS rebinding: no browser keeps that page from an open server that answers to any name."""
    async with serving() as server:
        for method, path in (("GET", "/"), ("GET", "/calls"), ("POST", "/offer"), ("POST", "/whip/desk")):
            headers = {"Host": host}
            async with server.http.request(method, path, headers=headers, data=b"{}") as answer:
                assert answer.status == 421
                assert "--access open" in (await answer.json())["error"]
                assert host in (await answer.json())["error"]
    free: tuple[dict[str, object], ...] = (
        {"access": "open"},
        {"tokens": (TOKEN,)},
    )
    for options in free:
        async with (
            serving(**options) as server,
            server.http.get("/healthz", headers={"Host": "calls.example.org"}) as answer,
        ):
            assert answer.status == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1", "127.0.0.2:99", "[::1]:8080"])
async def test_an_open_server_answers_to_each_name_of_this_machine(host: str) -> None:
    async with serving() as server, server.http.get("/calls", headers={"Host": host}) as answer:
        assert answer.status == 200


async def test_a_proxy_on_this_machine_that_is_not_trusted_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All callers behind it are this machine, and without limits."""
    async with (
        serving() as server,
        server.http.post("/offer", data=b"", headers={"X-Forwarded-For": "192.0.2.1"}),
    ):
        pass
    assert "127.0.0.1 forwards callers, but is not trusted with it: --trust-forwarded" in caplog.text


async def test_a_load_test_shows_its_token_and_does_not_report_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    command = ["load", "--quiet", "--json", "--seconds", "1"]
    async with serving(tokens=(TOKEN,)) as server:
        monkeypatch.delenv("PERCEPNET_TOKEN", raising=False)
        assert await asyncio.to_thread(main, [*command, server.url]) == 1
        found = json.loads(capsys.readouterr().out)
        (call,) = found["steps"][0]["calls"]
        assert "401" in call["reason"]
        assert await asyncio.to_thread(main, [*command, server.url, "--token-file", str(file)]) == 0
        said = "".join(capsys.readouterr())
    assert TOKEN not in said
    assert '"server"' in said  # it has seen the figures of the server


def test_tls_errors_name_the_file(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    both, garbage, other, locked = (
        tmp_path / name for name in ("both.pem", "garbage.pem", "other.pem", "locked.pem")
    )
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    garbage.write_text("garbage")
    assert tls.context(Config()) is None
    assert tls.context(Config(tls_cert=cert, tls_key=key)) is not None
    assert tls.context(Config(tls_cert=both)) is not None
    other.write_text("-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n")
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
        password = serialization.BestAvailableEncryption(b"password")
        locked.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, password))
        with pytest.raises(ValueError, match=r"locked.pem: its key has a password"):
            tls.context(Config(tls_cert=cert, tls_key=locked))
    for options, named in (
        ({"tls_cert": tmp_path / "none.pem"}, "none.pem"),
        ({"tls_cert": cert, "tls_key": tmp_path / "none.pem"}, "none.pem"),
        ({"tls_cert": garbage}, "garbage.pem"),
        ({"tls_cert": cert, "tls_key": garbage}, "garbage.pem"),
        ({"tls_cert": cert}, "cert.pem"),
        ({"tls_cert": cert, "tls_key": other}, "other.pem"),
        ({"tls_key": key}, "--tls-cert"),
    ):
        with pytest.raises((OSError, ValueError), match=named):
            tls.context(replace(Config(), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_command_serves_https_with_tokens(
    certificate: tuple[Path, Path], workers: int, tmp_path: Path
) -> None:
    cert, key = certificate
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    options = (
        "--tls-cert",
        str(cert),
        "--tls-key",
        str(key),
        "--token-file",
        str(file),
        "--rated-calls",
        "4",
    )
    limits = ("--max-calls-per-address", "1", "--trust-forwarded", "127.0.0.1", "--offers-per-second", "0.5")
    async with served("--workers", str(workers), *options, *limits) as server:
        assert server.url.startswith("https://127.0.0.1:")
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(cert)))
        body = await offered()
        async with aiohttp.ClientSession(server.url, connector=connector) as http:

            async def status(path: str, caller: str = "", **more: Any) -> tuple[int, Any]:
                headers = bearer(TOKEN) | ({"X-Forwarded-For": f"203.0.113.9, {caller}"} if caller else {})
                async with http.request("POST", path, headers=headers, **more) as answer:
                    assert (answer.status == 429) is ("Retry-After" in answer.headers)
                    return answer.status, json.loads(await answer.read())

            async with http.post("/offer", json=body) as answer:
                assert answer.status == 401
            one = [await status("/offer", "192.0.2.1", json=body) for _ in range(2)]
            assert [code for code, _ in one] == [201, 429]  # by its calls
            assert "1 calls" in one[1][1]["error"]
            for path in ("/offer", "/whip/desk", "/whep/desk"):
                assert (await status(path, "192.0.2.1", json={}))[0] == 429  # by its offers
            assert (await status("/offer", "192.0.2.2", json=body))[0] == 201
            assert [(await status("/offer", json={}))[0] for _ in range(5)] == [400] * 5  # loopback
            call = f"/calls/{one[0][1]['id']}"
            async with http.delete(call) as answer:
                assert answer.status == 401
            async with http.delete(call, headers=bearer(TOKEN)) as answer:
                assert answer.status == 204
        async with aiohttp.ClientSession() as http:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await http.get(server.url)
    assert TOKEN not in "".join(server.lines)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_command_does_not_start_without_tokens_where_others_reach_it(workers: str) -> None:
    async with served("--workers", workers, "--host", "0.0.0.0") as server:
        assert await server.ended() == 1
    assert server.lines[-1].startswith("percepnet: address 0.0.0.0 needs tokens")
    assert "Traceback" not in "".join(server.lines)
