"""Examples in docstrings run as they stand there."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["percepnet", "percepnet.enhancer", "percepnet.recording"])
def test_examples_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
