"""What holds for every command: help, what is imported, faults and interruption."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commanding import percepnet

from percepnet.cli import COMMANDS, describe
from percepnet.cli.options import within


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert percepnet(command, "--help") == 0
    said = capsys.readouterr().out
    assert f"percepnet {command}" in said.split("examples:")[1]


@pytest.mark.parametrize("command", ["enhance", "bench", "evaluate"])
def test_commands_load_only_what_they_need(command: str) -> None:
    """Neither PyTorch nor a web server, nor the packages of an extra in a command that works without."""
    unwanted = {"torch", "aiohttp", "aiortc"} | (
        set() if command == "evaluate" else {"scipy", "matplotlib", "pesq"}
    )
    program = (
        "import sys\nfrom percepnet.cli import main\n"
        f"try: main(['{command}', '--help'])\nexcept SystemExit: pass\n"
        f"sys.exit(', '.join({unwanted} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_module_runs_as_a_program() -> None:
    call = [sys.executable, "-m", "percepnet", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=60)
    assert re.fullmatch(r"percepnet \d+\.\d+\.\d+\n", done.stdout)


def test_a_file_that_hides_the_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``python -m`` looks in the working folder first."""
    monkeypatch.delenv("PYTHONPATH")  # of the tests, where ours has been imported before that
    (tmp_path / "server.py").touch()
    call = [sys.executable, "-m", "percepnet", "serve", "--help"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(f"percepnet: {tmp_path / 'server.py'} hides our package of that name")


def test_faults_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("percepnet.cli.enhance.reading", broken)
    with pytest.raises(KeyError):
        percepnet("enhance", tmp_path / "a.wav", tmp_path / "b.wav")


def test_interruption_leaves_as_shells_expect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("percepnet.cli.enhance.reading", interrupted)
    assert percepnet("enhance", tmp_path / "a.wav", tmp_path / "b.wav") == 130


BENCH = ("bench", "--streams", "1", "--seconds", "0.1", "--repeats", "1")


def test_what_cannot_be_printed_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    call = [sys.executable, "-m", "percepnet", *BENCH]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"percepnet: No space left on device\n")


def test_nothing_is_told_where_the_reader_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    reading, writing = os.pipe()
    os.close(reading)
    call = [sys.executable, "-m", "percepnet", *BENCH]
    done = subprocess.run(call, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_command_works_with_its_error_stream_closed() -> None:
    program = f"{shlex.join([sys.executable, '-m', 'percepnet', *BENCH, '--json'])} 2>&-"
    done = subprocess.run(program, shell=True, stdout=subprocess.PIPE, check=True, timeout=60)
    assert json.loads(done.stdout)["loads"]


SLEEPERS = """
import time
from percepnet.cli.processes import each

def sleep(seconds):
    print("begun", flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    list(each(sleep, [3600, 3600], 2))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_that_share_the_work_end_with_the_command(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "sleepers.py"
    program.write_text(SLEEPERS)
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert [command.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        command.send_signal(number)
        assert command.communicate(timeout=60) == ("", None)  # the end of what all of them write to


def test_descriptions_fit_one_line() -> None:
    assert describe(FileNotFoundError(2, "No such file", "a.wav")) == "a.wav: No such file"
    assert describe(ValueError("one\n  two")) == "one two"
    assert describe(RuntimeError()) == "RuntimeError"


def test_numbers_are_checked() -> None:
    assert within(int, 1, 3)("2") == 2
    for text in ("0", "4", "x", "1.5", "nan"):
        with pytest.raises(Exception, match=f"{text} is not allowed; allowed are whole numbers from 1 to 3"):
            within(int, 1, 3)(text)
    with pytest.raises(Exception, match="nan is not allowed"):
        within(float, 0, 1)("nan")
