"""The real server in a process, and a real Chromium that calls it with a WAV file as its microphone."""

import base64
import os
import shutil
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from percepnet.framing import Float

SAMPLE_RATE = 48_000  # Hz
BUSY_SECONDS = 20  # that the server may be
expect.set_options(timeout=30_000)
RECORDER = Path(__file__).with_name("recorder.js")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@dataclass
class Server:
    """A running ``percepnet serve``."""

    process: subprocess.Popen[str]
    url: str


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """``percepnet serve`` on a free port, until the block ends."""
    command = [sys.executable, "-m", "percepnet", "serve", "--host", "127.0.0.1", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "serves on" in line:
                break
        else:
            raise RuntimeError("the server did not start:\n" + "".join(said))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would hold it up
        yield Server(process, line.split()[-1])
    finally:
        process.terminate()
        process.wait(timeout=60)


@dataclass
class Browser:
    """A page of the server, all that its console said, and all that it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    @property
    def context(self) -> BrowserContext:
        return self.page.context

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requested.append(request.url))
        page.on(
            "console",
            lambda message: (
                message.type in ("error", "warning")
                and "status of 503" not in message.text  # see call()
                and self.complaints.append(message.text)
            ),
        )


@contextmanager
def browsing(
    url: str, microphone: Path | None = None, allow: bool = True, **context: object
) -> Iterator[Browser]:
    """Chromium at ``url``. Its microphone is played once from the WAV file; ``allow`` answers the prompt for it."""
    arguments = [*QUIET, "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required"]
    if microphone is not None:
        arguments.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    if allow:
        arguments.append("--use-fake-ui-for-media-stream")
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    # Debian's, or where there is none the one that Playwright has installed.
    executable = shutil.which("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=arguments)
        try:
            page = chromium.new_context(**context).new_page()  # type: ignore[arg-type]
            browser = Browser(page)
            browser.watch(page)
            page.add_init_script(path=RECORDER)
            page.goto(url)
            yield browser
        finally:
            chromium.close()


def call(page: Page, source: str = "microphone") -> None:
    """Start a call from the page and wait until it is connected; a busy machine may refuse it for a moment."""
    page.check(f"input[name=source][value={source}]")
    for _ in range(BUSY_SECONDS):
        page.click("#start")
        page.locator("#status:is([data-state=live], [data-state=failed])").wait_for()
        if page.locator("#status").get_attribute("data-state") == "live":
            return
        expect(page.get_by_role("alert")).to_contain_text("takes no call now: ")
        page.wait_for_timeout(1000)
    raise AssertionError("the server stays full")


@dataclass
class Recording:
    """What came back: mono samples at 48 kHz. Times are ms of the page's clock."""

    samples: Float
    arrivals: NDArray[np.float64]  # of each 10 ms of samples
    clicks: NDArray[np.float64]


def record(page: Page, seconds: float, clicked: str = "", clicks: Sequence[float] = ()) -> Recording:
    """The audio that comes back in the next ``seconds``, as the network brings it, before any sound card.

    The element with the id ``clicked`` is clicked when each of ``clicks`` seconds have come.
    """
    arguments = [seconds, clicked, list(clicks)]
    samples, arrivals, times = page.evaluate("arguments => recorder.read(...arguments)", arguments)
    return Recording(
        np.frombuffer(base64.b64decode(samples), np.float32), np.array(arrivals), np.array(times)
    )


def write_wav(path: Path, samples: Float) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())
    return path
