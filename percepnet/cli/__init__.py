"""The command ``percepnet``: the only room that knows files, progress bars and exit codes.

Every subcommand is a module with ``add_arguments(parser)`` and ``run(args) -> int | None``, imported only
when it is the one called: ``percepnet enhance`` loads neither aiohttp nor PyTorch.
"""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType, ModuleType
from typing import Final

from percepnet.extras import how_to_install

FAILURE: Final = 1  # exit status; argparse itself leaves with 2 on wrong usage
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True)
class Command:
    """A subcommand: its module, one line of help, and calls to learn from."""

    module: str
    help: str
    examples: tuple[str, ...]


COMMANDS: Final = MappingProxyType(
    {
        "enhance": Command(
            "percepnet.cli.enhance",
            "remove the noise from a recording or a directory of them",
            (
                "percepnet enhance noisy.wav enhanced.wav",
                "percepnet enhance meeting.mp4 voice.flac --attenuation-limit-db 20",
                "percepnet enhance recordings/ enhanced/ --format opus",
            ),
        ),
        "serve": Command(
            "percepnet.cli.serve",
            "start the WebRTC server and its page",
            (
                "percepnet serve --host 127.0.0.1 --port 8080",
                "percepnet serve --host 0.0.0.0 --token-file tokens.txt --tls-cert cert.pem --tls-key key.pem",
            ),
        ),
        "sidecar": Command(
            "percepnet.cli.sidecar",
            "join the rooms of another server and publish an enhanced twin of each voice",
            (
                "percepnet sidecar janus --url ws://127.0.0.1:8188 --room 1234 --room 5678 --stats-port 8081",
                "percepnet sidecar livekit --url ws://127.0.0.1:7880 --room office --room lobby",
            ),
        ),
        "load": Command(
            "percepnet.cli.load",
            "put a server under load with synthetic callers, and measure what comes back",
            (
                "percepnet load http://127.0.0.1:8080 --calls 20 --seconds 30 --report load.html",
                "percepnet load http://127.0.0.1:8080 --calls 1,5,10,20 --loss 2 --jitter 15 --json > curve.json",
                "percepnet load http://127.0.0.1:8080 --repeat 200 --seconds 1",
                "percepnet load --compare --calls 1,2,4,6,8,12,16,20,24,28,32,40 --seconds 15",
            ),
        ),
        "weather": Command(
            "percepnet.cli.weather",
            "measure what calls become in bad networks, beside a plain aiortc echo",
            (
                "percepnet weather --report weather.html",
                "percepnet weather --conditions loss-5,burst-10,loss-5+jitter-30 --seconds 30",
                "percepnet weather http://127.0.0.1:8080 --no-echo --conditions blackout-3 --json",
            ),
        ),
        "soak": Command(
            "percepnet.cli.soak",
            "keep a server busy for long, and see whether memory, descriptors, delay and the like stay flat",
            (
                "percepnet soak --report soak.html",
                "percepnet soak http://127.0.0.1:8080 --minutes 60 --calls 8 --loss 5",
            ),
        ),
        "bench": Command(
            "percepnet.cli.bench",
            "measure the processor time of one or many calls",
            ("percepnet bench", "percepnet bench --streams 1,16,64 --json > bench.json"),
        ),
        "evaluate": Command(
            "percepnet.cli.evaluate",
            "score enhanced speech against clean speech",
            ("percepnet evaluate testset/", "percepnet evaluate testset/ --peers rnnoise --csv scores.csv"),
        ),
        "mixtures": Command(
            "percepnet.cli.mixtures",
            "make a fixed test set for evaluate from a folder of speech and noise",
            ("percepnet mixtures recordings/ testset/ --count 60",),
        ),
        "bars": Command(
            "percepnet.cli.bars",
            "measure what must not happen: to clean, quiet and narrow-band speech, to noise alone, to a recogniser",
            (
                "percepnet bars recordings/ --count 20",
                "percepnet bars recordings/ --english english/ --model new.onnx",
            ),
        ),
        "oracle": Command(
            "percepnet.cli.oracle",
            "show what each stage of the signal processing can reach, as a page to see and hear",
            (
                "percepnet oracle clean.wav noise.wav report/ --snr 5",
                "percepnet oracle speech/ noise/ report/ --snr 0 5 10 --limit 12 --seconds 12",
            ),
        ),
        "train": Command(
            "percepnet.training.train",
            "train a network on folders of speech and noise",
            (
                "percepnet train --data data/ --preset toy",
                "percepnet train --data data/ --run runs/mine",
            ),
        ),
        "export": Command(
            "percepnet.training.export",
            "turn a training checkpoint into .onnx networks",
            ("percepnet export runs/mine/checkpoint.pt mine",),
        ),
    }
)
EXTRAS: Final = MappingProxyType({"torch": "train", "onnx": "train", "scipy": "eval", "matplotlib": "eval"})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``argv`` (the process's own arguments by default) and returns the exit status: 0, 1 or 130.

    Wrong usage, ``--help`` and ``--version`` leave through argparse's SystemExit with 2, 0 and 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign must not cost the results
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    try:
        module, missing = None, ""
        try:
            module = importlib.import_module(COMMANDS[chosen].module) if chosen in COMMANDS else None
        except ModuleNotFoundError as error:
            missing = describe(error)
            if "pip install" not in missing or not {"-h", "--help"} & set(arguments):
                raise
        args = _parser(chosen, module, missing).parse_args(arguments)
        assert module is not None  # argparse has left if no command was chosen
        status = int(module.run(args) or 0)
        _flush()  # or Python does it at its end, with messages and a status of its own
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError, TypeError, RuntimeError, ImportError, MemoryError) as error:
        if not isinstance(error, BrokenPipeError):  # the reader, such as `head`, has gone
            print(f"percepnet: {describe(error)}", file=sys.stderr)
        _drop_what_cannot_be_printed()
        return FAILURE


def describe(error: BaseException) -> str:
    """``error`` in one line, for people."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("server."):
        return (
            f"{sys.modules['server'].__file__} hides our package of that name; call percepnet from elsewhere"
        )
    if isinstance(error, ModuleNotFoundError) and "pip install" not in str(error):
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra:
            return f"this command needs the package {error.name}: {how_to_install(extra)}"
    return " ".join(str(error).split()) or type(error).__name__


def _flush() -> None:
    # print() of nothing would write nothing, for which a full disk has no room either
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_what_cannot_be_printed() -> None:
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(chosen: str, module: ModuleType | None, missing: str) -> argparse.ArgumentParser:
    """``missing``: why there is no ``module``, and its options cannot be told."""
    parser = argparse.ArgumentParser(
        prog="percepnet",
        description="Full-band speech enhancement in real time.",
        epilog="percepnet COMMAND --help tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"percepnet {version('percepnet')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog="examples:\n" + "\n".join(f"  {example}" for example in command.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == chosen and module:
            module.add_arguments(subparser)
        elif name == chosen:
            subparser.epilog = f"{subparser.epilog}\n\n{missing}, and its options are told here"
    return parser
