"""The command as a process of its own: what it says, and what it answers."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from calling import START, TIMEOUT


class Program:
    """``percepnet …`` that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""
        self.lines: list[str] = []  # of its error stream
        self.http: aiohttp.ClientSession

    async def read_until(self, text: str, within: float = TIMEOUT) -> str:
        """The next line of the error stream with that text; "" at its end."""
        assert self.process.stderr is not None
        async with asyncio.timeout(within):
            async for line in self.process.stderr:
                self.lines.append(line.decode())
                if text in self.lines[-1]:
                    return self.lines[-1]
        return ""

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(path) as answer:
            return answer.status, await answer.json()

    async def workers(self) -> dict[int, dict[str, Any]]:
        """Figures of the workers that live, by number."""
        return {figures["worker"]: figures for figures in (await self.get("/stats"))[1]["workers"]}

    async def ended(self) -> int:
        """Exit status, and all that it said."""
        async with asyncio.timeout(TIMEOUT):
            while await self.read_until("\n"):
                pass
            return await self.process.wait()


@asynccontextmanager
async def program(*arguments: str, says: str, **environment: str) -> AsyncIterator[Program]:
    """Started, and so far that it ``says`` where it answers, or has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "percepnet", *arguments),
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **environment},
    )
    started = Program(process)
    try:
        found = re.search(r"https?://[^\s\"/]+", await started.read_until(says, START))
        started.url = found[0] if found else ""
        async with aiohttp.ClientSession(started.url or None) as started.http:
            yield started
    finally:
        if process.returncode is None:
            process.kill()
            await started.ended()


@asynccontextmanager
async def served(*options: str, folder: Path | None = None) -> AsyncIterator[Program]:
    """A server; ``folder`` is for its temporary files."""
    environment = {"TMPDIR": str(folder)} if folder else {}
    async with program("serve", "--port", "0", *options, says="serves on http", **environment) as server:
        yield server
