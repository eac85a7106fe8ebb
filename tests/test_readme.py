"""What the README shows runs as it stands there."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from percepnet.cli import COMMANDS
from percepnet.training import train

TOP = Path(__file__).parent.parent
README = (TOP / "README.md").read_text()


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_snippets_run(snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


def test_commands_exist() -> None:
    named = set(re.findall(r"(?:^ +|`|/)percepnet ([a-z]+)", README, re.MULTILINE))
    assert named == set(COMMANDS)


def test_linked_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (TOP / link).is_file(), link


def test_pictures_and_papers_are_in_no_wheel() -> None:
    """Nor are they served: what is in static/ is."""
    installed = {file.distribution_path for file in WheelBuilder(str(TOP)).recurse_included_files()}
    assert {"percepnet/models/subband.onnx", "server/static/index.html"} <= installed
    assert not [path for path in installed if "pictures" in path or path.endswith("EXPERIMENTS.md")]


def test_training_commands_are_understood() -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    lines = [line.strip() for line in README.splitlines() if line.strip().startswith("percepnet train ")]
    assert lines
    for line in lines:
        parser.parse_args(shlex.split(line)[2:])


def test_the_pages_sample_is_the_recording_that_is_tested() -> None:
    assert (TOP / "static/audio/sample.flac").read_bytes() == (
        TOP / "tests/recordings/noisy.flac"
    ).read_bytes()
