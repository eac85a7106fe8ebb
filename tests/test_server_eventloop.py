"""uvloop's event loop where it is installed, else asyncio's."""

import asyncio
import gc
import logging
import sys

import pytest

from server import eventloop


def loop_of_run() -> str:
    seen = []

    async def main() -> None:
        seen.append(type(asyncio.get_running_loop()).__module__)

    eventloop.run(main())
    return seen[0]


def test_uvloop_runs_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert loop_of_run().startswith("uvloop")


def test_without_uvloop_asyncio_runs_and_the_log_tells(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert loop_of_run().startswith("asyncio")
    assert "uvloop is not installed" in caplog.text


def test_windows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RuntimeError, match="servers run on Linux and macOS, not on Windows"):
        loop_of_run()


def test_what_a_process_keeps_is_left_out_of_collections() -> None:
    kept: list[object] = [[]]
    assert any(found is kept for found in gc.get_objects())
    eventloop.begun()
    try:
        assert not any(found is kept for found in gc.get_objects())
    finally:
        gc.unfreeze()
