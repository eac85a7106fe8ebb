"""Log lines that somebody provokes without end."""

import logging

import pytest

from server.loglimit import BURST, LogLimit


def test_lines_of_one_place_are_limited_and_not_those_of_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(limit := LogLimit(lambda: 0.0))
    try:
        for number in range(1000):
            logging.getLogger("tests.loglimit").warning("hostile %d", number)
        assert len(caplog.messages) == BURST
        logging.getLogger("tests.loglimit").warning("from elsewhere")
    finally:
        caplog.handler.removeFilter(limit)
    assert caplog.messages[-1] == "from elsewhere"


def test_the_next_line_tells_how_many_were_left_out(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    caplog.handler.addFilter(limit := LogLimit(lambda: now))
    try:
        for number in range(200):
            now = 0.0 if number < 199 else 10.0
            logging.getLogger("tests.loglimit").warning("hostile %d", number)
    finally:
        caplog.handler.removeFilter(limit)
    assert caplog.messages[-1] == f"hostile 199 (and {199 - int(BURST)} more from here)"
