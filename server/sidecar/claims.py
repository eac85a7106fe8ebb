"""Who enhances whom, where several sidecars are in a room. Pure functions; each sidecar asks them by itself.

What all of them see is at Janus. A sidecar is in the room under a name that tells it is one; a twin's audio has
a description that names the publisher it is of. Three rules:

1. *Turn.* For each publisher the sidecars present have an order (rendezvous hashing of their names with the
   publisher's id, so each is first for its share of publishers). The first begins at once, the next only if
   there is no twin after ``GRACE`` seconds, and so on: when the first is stuck or full, the next takes over.
2. *One.* Who sees a twin of a publisher begins none, and begins anew with rule 1 once that twin has gone.
3. *Tie.* Where there are two twins of a publisher nevertheless, the one with the lowest id stays; the sidecars
   of the others withdraw them.

So publishers stay with who has them, and only what is new is shared with a sidecar that comes later.

The race: two sidecars begin the same publisher when they see different sidecars in the room (one comes in the
moment in which the publisher does) or when setting up a twin takes longer than ``GRACE``. Then a listener sees
two twins until both are published and their events have come: as long as a set-up takes, some tenths of a second
up to ``GRACE`` on a slow machine. Ids are unique and both see both, so exactly one stays. A sidecar that dies
without a word leaves its twins until Janus notices: at once over a WebSocket, after its session timeout (60 s)
over HTTP. Then rule 1 holds, without the dead.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from .videoroom import Feed

GRACE: Final = 3.0  # s for each sidecar that is before this one
_SIDECAR: Final = "percepnet sidecar "
_TWIN: Final = "percepnet: enhanced audio of "


def sidecar_display(name: str) -> str:
    """Under which a sidecar is in a room."""
    return _SIDECAR + name


def twin_display(display: str) -> str:
    """What people read beside a twin's voice."""
    return f"{display} (enhanced)".lstrip()


def twin_description(feed: Feed) -> str:
    """Of the audio of the twin of ``feed``; for programs to read."""
    return f"{_TWIN}{feed}"


def enhanced_feed(description: str) -> str | None:
    """The publisher whose twin has audio of that description; None where it is no twin."""
    found = re.fullmatch(re.escape(_TWIN) + "(.+)", description)
    return found[1] if found else None


def place(name: str, feed: Feed, displays: Iterable[str]) -> int:
    """How many of the sidecars in the room, by all ``displays`` there, are before ``name`` for a publisher."""
    present = {display.removeprefix(_SIDECAR) for display in displays if display.startswith(_SIDECAR)}
    own = _weight(name, feed)
    return sum(_weight(other, feed) < own for other in present - {name})


def beaten(own: Feed, twins: Iterable[Feed]) -> bool:
    """Whether the twin ``own`` has to go, where there are ``twins`` of the same publisher."""
    return any(_order(twin) < _order(own) for twin in twins)


def _order(feed: Feed) -> tuple[int, str]:
    """Numbers by their size, also where ids are texts."""
    return len(str(feed)), str(feed)


def _weight(name: str, feed: Feed) -> bytes:
    return hashlib.sha256(f"{name} {feed}".encode()).digest()
