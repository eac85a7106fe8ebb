"""Whom a sidecar follows, whichever server it is on."""

import asyncio
from dataclasses import dataclass, field

from calling import until

from server.sidecar.claims import Feed
from server.sidecar.following import Following


@dataclass(frozen=True)
class Somebody:
    id: Feed
    stream: int


@dataclass(eq=False)
class SlowTwin:
    """It takes its time to close, until ``free``."""

    log: list[tuple[str, int]]
    stream: int
    free: asyncio.Event = field(default_factory=asyncio.Event)
    id: Feed | None = None

    async def open(self) -> None:
        self.log.append(("opened", self.stream))

    async def ended(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.log.append(("closes", self.stream))
        await self.free.wait()
        self.log.append(("closed", self.stream))

    def report(self) -> dict[str, object]:
        return {}


async def test_a_twin_begins_when_all_is_given_back_that_the_one_before_took() -> None:
    log: list[tuple[str, int]] = []
    twins: list[SlowTwin] = []

    def make(who: Somebody) -> SlowTwin:
        twins.append(SlowTwin(log, who.stream))
        return twins[-1]

    async def sidecars() -> list[str]:
        return ["me"]

    following: Following[Somebody] = Following("room", "me")
    following.follow(Somebody("alice", 1), make, sidecars, newcomer=False)
    await until(lambda: ("opened", 1) in log, "the first")
    following.follow(Somebody("alice", 2), make, sidecars, newcomer=False)
    following.follow(Somebody("bob", 7), make, sidecars, newcomer=False)
    await until(lambda: {("closes", 1), ("opened", 7)} <= set(log), "another's is made meanwhile")
    following.follow(Somebody("alice", 3), make, sidecars, newcomer=False)  # while the second waits
    assert ("opened", 3) not in log
    twins[0].free.set()
    await until(lambda: ("opened", 3) in log, "the last")
    assert [entry for entry in log if entry[1] != 7] == [
        ("opened", 1),
        ("closes", 1),
        ("closed", 1),
        ("opened", 3),
    ]
    for twin in twins:
        twin.free.set()
    await following.forget_all()
    assert log.count(("closed", 3)) == 1
