"""Examples in docstrings run as they stand there."""

import doctest
import importlib

import pytest

NAMES = ["enhancer", "recording", "streaming", "integrations.pipecat", "integrations.livekit"]


@pytest.mark.parametrize("name", ["percepnet", *(f"percepnet.{name}" for name in NAMES)])
def test_examples_run(name: str) -> None:
    if ".integrations." in name:
        pytest.importorskip(name.rpartition(".")[2])
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
