"""Debian's Janus as a process of its own, with a VideoRoom on a free port of 127.0.0.1."""

import asyncio
import contextlib
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp

from server.sidecar.janus import session
from server.sidecar.transport import connected
from server.sidecar.videoroom import PLUGIN

ROOM = 1234
ROOM_SECRET = "for those who may kick"
START_TIME = 20.0  # s
CORE = """
general: {{
    configs_folder = "{folder}"
    debug_level = 3
    session_timeout = 20
    {secret}
}}
media: {{ rtp_port_range = "20000-29999" }}
nat: {{ ice_ignore_list = "vmnet" }}
plugins: {{ disable = "libjanus_audiobridge.so,libjanus_duktape.so,libjanus_echotest.so,libjanus_lua.so,\
libjanus_nosip.so,libjanus_recordplay.so,libjanus_sip.so,libjanus_streaming.so,libjanus_textroom.so,\
libjanus_videocall.so,libjanus_voicemail.so" }}
transports: {{ disable = "libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_pfunix.so,libjanus_rabbitmq.so" }}
loggers: {{ disable = "libjanus_jsonlog.so" }}
"""
HTTP = """
general: {{ json = "plain" base_path = "/janus" http = true port = {port} ip = "127.0.0.1" https = false }}
admin: {{ admin_http = false admin_https = false }}
"""
WEBSOCKETS = """
general: {{ json = "plain" ws = true ws_port = {port} ws_ip = "127.0.0.1" wss = false }}
admin: {{ admin_ws = false admin_wss = false }}
"""
VIDEOROOM = """
general: {{ string_ids = false }}
room-{room}: {{ description = "tests" secret = "{room_secret}" publishers = 100 audiocodec = "opus" {pin} }}
"""


def installed() -> bool:
    return shutil.which("janus") is not None


class JanusServer:
    """Runs inside ``async with``; :meth:`kill` and :meth:`start` between are a crash and a restart."""

    def __init__(self, folder: Path, *, secret: str = "", pin: str = "") -> None:
        self._folder = folder
        http, websockets = _free_port(), _free_port()
        self.urls = {"http": f"http://127.0.0.1:{http}/janus", "ws": f"ws://127.0.0.1:{websockets}"}
        self.authorization: Mapping[str, str] = {"apisecret": secret} if secret else {}
        self.pin = pin or None
        self._process: asyncio.subprocess.Process | None = None
        words = {
            "folder": folder,
            "room": ROOM,
            "room_secret": ROOM_SECRET,
            "secret": f'api_secret = "{secret}"' if secret else "",
            "pin": f'pin = "{pin}"' if pin else "",
        }
        for name, text, port in (
            ("janus", CORE, 0),
            ("janus.transport.http", HTTP, http),
            ("janus.transport.websockets", WEBSOCKETS, websockets),
            ("janus.plugin.videoroom", VIDEOROOM, 0),
        ):
            (folder / f"{name}.jcfg").write_text(text.format(port=port, **words))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "janus.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                "janus", "-F", str(self._folder), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            async with asyncio.timeout(START_TIME), aiohttp.ClientSession() as http:
                while True:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with http.get(self.urls["http"] + "/info"):
                            return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            await self.kill()
            raise AssertionError(f"Janus does not answer: {self.log()[-2000:]}") from None

    async def kill(self) -> None:
        """End it without a word to anybody."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """It lives, and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self._folder / "janus.log").read_text(errors="replace")

    async def participants(self) -> list[dict[str, Any]]:
        """Of the room, as Janus lists them: those who publish and those who do not."""
        data = await self.ask({"request": "listparticipants", "room": ROOM})
        return list(data["participants"])

    async def kick(self, participant: object) -> None:
        """Out of the room."""
        await self.ask({"request": "kick", "room": ROOM, "id": participant, "secret": ROOM_SECRET})

    async def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The VideoRoom plugin."""
        async with aiohttp.ClientSession() as http:
            transport = await connected(http, self.urls["ws"])
            async with session(transport, self.authorization) as asking:
                handle = await asking.attach(PLUGIN, lambda event: None)
                answer, _ = await handle.ask(request)
                return answer


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
