"""A real Firefox without a window, driven by WebDriver BiDi, which Playwright does not speak with Debian's."""

import asyncio
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ANSWER_WITHIN = 60  # s
PREFERENCES = {
    "media.navigator.streams.fake": "true",  # the microphone is a steady tone
    "media.navigator.permission.disabled": "true",
    "media.autoplay.default": "0",
    "app.update.enabled": "false",
    "datareporting.policy.dataSubmissionEnabled": "false",
    "network.captive-portal-service.enabled": "false",
    "network.connectivity-service.enabled": "false",
}


class Firefox:
    """One page, and all that its console complained of."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers, self._page = socket, itertools.count(1), ""
        self.complaints: list[str] = []

    async def do(self, method: str, **parameters: object) -> Any:
        """A command of WebDriver BiDi; its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(ANSWER_WITHIN):
            while (answer := await self._socket.receive_json()).get("id") != number:
                entry = answer["params"]
                if entry["level"] in ("warn", "error"):
                    self.complaints.append(entry["text"])
        assert answer["type"] == "success", answer
        return answer["result"]

    async def open(self, url: str, script: str) -> None:
        """Load a page, whose own scripts find what ``script`` has done."""
        await self.do("session.new", capabilities={})
        await self.do("session.subscribe", events=["log.entryAdded"])
        await self.do("script.addPreloadScript", functionDeclaration=f"() => {{ {script} }}")
        self._page = (await self.do("browsingContext.getTree"))["contexts"][0]["context"]
        await self.do("browsingContext.navigate", context=self._page, url=url, wait="complete")

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, of a promise what it becomes."""
        target = {"context": self._page}
        answer = await self.do("script.evaluate", expression=expression, target=target, awaitPromise=True)
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    async def click(self, selector: str) -> None:
        await self.run(f"document.querySelector({selector!r}).click()")

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        await self.run(f"""new Promise((resolve) => {{
            const check = async () => (await ({condition})) ? resolve() : setTimeout(check, 50);
            check();
        }})""")


@asynccontextmanager
async def firefox(url: str, profile: Path, script: str = "") -> AsyncIterator[Firefox]:
    """Firefox with a fresh ``profile`` at ``url``; skips where there is none."""
    executable = shutil.which("firefox-esr")
    if executable is None:
        pytest.skip("no firefox-esr, which is Debian's")
    lines = [f'user_pref("{name}", {value});' for name, value in PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        *(executable, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"),
        env={**os.environ, "HOME": str(profile)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            while not (line := await process.stderr.readline()).startswith(b"WebDriver BiDi listening on"):
                assert line, "Firefox did not start"
        address = f"{line.split()[-1].decode()}/session"
        async with aiohttp.ClientSession() as http, http.ws_connect(address, max_msg_size=0) as socket:
            browser = Firefox(socket)
            await browser.open(url, script)
            yield browser
    finally:
        process.terminate()
        await process.communicate()
