"""What a network does to datagrams, and its names on the command line."""

import re
from dataclasses import dataclass
from typing import Any, Final, Self

# s after the first packet in which nothing happens, so that there is a delay to compare with
CALM: Final = 4.0
STORM: Final = 4.0  # s that a condition lasts that passes: the delay after it is what counts
RUN: Final = 8.0  # datagrams that a bad phase of bursty loss lasts on average: 160 ms of audio
OVERTAKEN: Final = 0.045  # s that a datagram is held that others shall overtake: two of them, 20 ms apart

TABLE: Final = (
    "clean",
    *("loss-1", "loss-5", "loss-10", "loss-20", "burst-5", "burst-10"),
    *("jitter-5", "jitter-20", "jitter-50", "jitter-100", "storm-100"),
    *("reorder-5", "duplicate-10", "loss-5+jitter-30", "blackout-3", "rebind"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weather:
    """What happens to the datagrams of a call, from ``begin`` to ``end``, s after its first packet of audio."""

    loss: float = 0.0  # % of them
    bursts: bool = False  # loss comes in runs: the model of Gilbert and Elliott
    jitter: float = 0.0  # ms by which each is late at most, a quarter of it on average
    reorder: float = 0.0  # % that are overtaken by others
    duplicate: float = 0.0  # % that come twice
    blackout: float = 0.0  # s from ``begin`` in which none comes
    rebind: bool = False  # at ``begin`` the caller's address becomes another
    begin: float = 0.0
    end: float | None = None
    both_ways: bool = False  # not only from the caller to the server

    def __str__(self) -> str:
        """As :meth:`parse` takes it, but for the times."""
        amounts = {kind: getattr(self, kind) for kind in ("jitter", "reorder", "duplicate", "blackout")}
        amounts = {"burst" if self.bursts else "loss": self.loss, **amounts}
        names = [f"{kind}-{amount:g}" for kind, amount in amounts.items() if amount]
        if self.end is not None:
            names = [name.replace("jitter", "storm") for name in names]
        return "+".join([*names, *(["rebind"] if self.rebind else [])]) or "clean"

    @property
    def is_fair(self) -> bool:
        """Nothing ever happens."""
        return str(self) == "clean"

    @classmethod
    def parse(cls, name: str) -> Self:
        """``loss-5``, ``loss-5+jitter-30``, ``clean``: begins when :data:`CALM` is over. Raises ``ValueError``."""
        found: dict[str, Any] = {"begin": CALM}
        given: set[str] = set()
        for part in name.split("+"):
            match = re.fullmatch(r"([a-z]+)(?:-(\d+(?:\.\d+)?))?", part)
            kind, amount = (match[1], match[2] and float(match[2])) if match else ("", None)
            most = _MOST.get(kind)
            if kind not in _MOST or (amount is None) != (most is None) or (amount or 0) > (most or 0):
                raise ValueError(f"{part!r} is no condition; allowed are {ALLOWED}, and several joined by +")
            sets = {"burst": "loss", "storm": "jitter"}.get(kind, kind)
            if sets in given:
                raise ValueError(f"{name!r} sets {sets} twice; allowed are {ALLOWED}, each kind once")
            given.add(sets)
            match kind:
                case "burst":
                    found |= {"loss": amount, "bursts": True}
                case "storm":
                    found |= {"jitter": amount, "end": CALM + STORM}
                case "rebind":
                    found["rebind"] = True
                case "clean":
                    pass
                case _:
                    found[kind] = amount
        return cls(**found)


_MOST: Final[dict[str, float | None]] = {  # that an amount may be; None for kinds without one
    "clean": None,
    "loss": 100.0,
    "burst": 50.0,
    "jitter": 1000.0,
    "storm": 1000.0,
    "reorder": 100.0,
    "duplicate": 100.0,
    "blackout": 60.0,
    "rebind": None,
}
ALLOWED: Final = ", ".join(name if limit is None else f"{name}-0…{limit:g}" for name, limit in _MOST.items())
