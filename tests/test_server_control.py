"""The control channel by itself: who sends without listening."""

import json
from itertools import count

from server.control import MOST_BUFFERED, ControlChannel
from server.controls import Changes


class Channel:
    """A data channel whose caller fetches nothing."""

    readyState = "open"

    def __init__(self) -> None:
        self.sent: list[str] = []

    @property
    def bufferedAmount(self) -> int:
        return sum(map(len, self.sent))

    def on(self, event: str, handler: object) -> None:
        assert event == "message"
        self.deliver = handler

    def send(self, message: str) -> None:
        self.sent.append(message)


def test_answers_to_a_caller_that_fetches_none_have_a_bound_and_its_controls_still_turn() -> None:
    channel, turned = Channel(), list[Changes]()
    control = ControlChannel(channel, turned.append, lambda: {"controls": {}})  # type: ignore[arg-type]
    for _ in range(5000):
        channel.deliver('{"enabled": false}')  # type: ignore[operator]
        channel.deliver("{")  # type: ignore[operator]
        control.push({"age_s": 1.0})
    assert len(turned) == 5000
    assert {json.loads(text)["type"] for text in channel.sent} == {"controls", "error", "figures"}
    assert channel.bufferedAmount < MOST_BUFFERED + max(map(len, channel.sent))


def test_more_questions_than_anybody_asks_turn_but_are_not_answered() -> None:
    class Listening(Channel):
        bufferedAmount = 0

    channel, turned, reported = Listening(), list[Changes](), count()

    def report() -> dict[str, object]:
        return {"controls": next(reported)}

    ControlChannel(channel, turned.append, report)  # type: ignore[arg-type]
    for _ in range(5000):
        channel.deliver('{"enabled": false}')  # type: ignore[operator]
    assert len(turned) == 5000
    assert 100 < len(channel.sent) < 1000
    assert next(reported) == len(channel.sent)  # none is made for nothing
