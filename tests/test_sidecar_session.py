"""A session of the sidecar with a Janus that is a few lines."""

import asyncio

import pytest
from calling import at_work, until

from server.sidecar.following import Twin, TwinFailed
from server.sidecar.janus import SessionLost, session
from server.sidecar.room import Room
from server.sidecar.transport import Message
from server.sidecar.videoroom import PLUGIN, Publisher

ROOM = 1234


class Poll:
    """Over HTTP one poll may bring both the answer to joining and what came after it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[list[Message]] = asyncio.Queue()

    async def send(self, message: Message) -> tuple[Message, ...]:
        answer: Message = {"janus": "success", "transaction": message["transaction"]}
        if message["janus"] in ("create", "attach"):
            return ({**answer, "data": {"id": 7}},)
        if message.get("body", {}).get("request") != "join":
            return ({**answer, "plugindata": {"data": {"participants": []}}},)
        alice = {"id": 42, "display": "Alice", "streams": [{"type": "audio", "mid": "0"}]}
        bob = {**alice, "id": 43, "display": "Bob"}
        told = (
            {"videoroom": "joined", "id": 9, "private_id": 3, "publishers": [alice, bob]},
            {"videoroom": "event", "unpublished": 42},
            {"videoroom": "event", "leaving": 42},
        )
        events = [{"janus": "event", "sender": 7, "plugindata": {"data": data}} for data in told]
        events[0]["transaction"] = message["transaction"]
        self.events.put_nowait(events)
        return ({**answer, "janus": "ack"},)

    async def receive(self, session: int, authorization: object) -> list[Message]:
        return await self.events.get()


class Late(Poll):
    """It answers no request for a handle."""

    async def send(self, message: Message) -> tuple[Message, ...]:
        return () if message["janus"] == "attach" else await super().send(message)


async def test_who_leaves_before_the_answer_to_joining_is_read_gets_no_twin() -> None:
    made: list[Publisher] = []

    def make_twin(room: object, publisher: Publisher) -> Twin:
        made.append(publisher)
        raise TwinFailed("a test")

    async with session(Poll(), {}) as open_session:  # type: ignore[arg-type]
        room = Room(ROOM, None, "me", make_twin)
        async with at_work(room.live(open_session)):
            await until(lambda: bool(made), "a twin is made of who has stayed")
            assert room.report()["publishers"] == 1
            assert {publisher.id for publisher in made} == {43}


async def test_a_handle_that_nobody_knows_ends_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.sidecar.janus.ANSWER_TIME", 0.05)
    async with session(Late(), {}) as open_session:  # type: ignore[arg-type]
        with pytest.raises(SessionLost, match="no answer to attach within"):
            await open_session.attach(PLUGIN, lambda event: None)
        with pytest.raises(SessionLost):
            await open_session.lost()
