"""Commands without the packages that they need."""

import re
import subprocess
import sys


def test_missing_extras_are_named() -> None:
    program = (
        "import sys\nsys.modules['pesq'] = sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        "from percepnet.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    for command, arguments, extra in (
        ("evaluate", "xyz", "eval"),
        ("oracle", "xyz", "eval"),
        ("weather", "", "eval"),  # before the first call
        ("train", "xyz", "train"),
    ):
        call = [sys.executable, "-c", program, command, *arguments]
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert re.fullmatch(rf"percepnet: .*pip install '\.\[{extra}\]' in .*\n", done.stderr), done.stderr


def test_help_is_told_without_them() -> None:
    program = (
        "import sys\nsys.modules['scipy'] = sys.modules['torch'] = None\n"
        "from percepnet.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    for command in ("train", "export", "mixtures"):
        call = [sys.executable, "-c", program, command, "--help"]
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"  percepnet {command} " in done.stdout  # the examples
        assert re.search(r"pip install '\.\[\w+\]'.*, and its options are told here", done.stdout)


def test_training_does_without_the_scores() -> None:
    """But for those of what it hears."""
    absent = "pesq", "pystoi", "speechmos", "matplotlib", "pocketsphinx"
    program = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
        "import percepnet.training.train, percepnet.training.export"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
