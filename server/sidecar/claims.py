"""Who enhances whom, where several sidecars are in a room. Pure functions; each sidecar asks them by itself.

What all of them see is at the server. At Janus a sidecar is in the room under a name that tells it is one, and a
twin's audio has a description that names the publisher it is of; at LiveKit the sidecar has attributes that tell
both (:mod:`.livekit.marks`). Three rules:

1. *Turn.* For each publisher the sidecars present have an order (rendezvous hashing of their names with the
   publisher's id, so each is first for its share of publishers). The first begins at once, the next only if
   there is no twin after ``GRACE`` seconds, and so on: when the first is stuck or full, the next takes over. Who
   finds a publisher and other sidecars on coming into a room waits for half of that longer: one of the others may be
   at it, in whose order the newcomer was not.
2. *One.* Who sees a twin of a publisher begins none, and begins anew with rule 1 once that twin has gone.
3. *Tie.* Where there are two twins of a publisher nevertheless, the one with the lowest id stays; the sidecars
   of the others withdraw them.

So publishers stay with who has them, and only what is new is shared with a sidecar that comes later. All of it is
trust: whoever may publish in a room can call a stream the twin of somebody, who then has none.

The race that is left: two sidecars begin the same publisher when the first takes longer than ``GRACE``, or half of it
where the second is new, to set up a twin; that takes some tenths of a second unless its machine or Janus is overloaded.
Then a listener sees two twins until both are published and their events have come, which is when the slower one is
ready. Ids are unique and all see both, so exactly one stays. A sidecar that dies without a word leaves its twins until
Janus notices: at once over a WebSocket, after its session timeout (60 s) over HTTP. Then rule 1 holds, without it.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, TypeAlias

Feed: TypeAlias = int | str  # id of a publisher or a twin

GRACE: Final = 3.0  # s for each sidecar that is before this one
_SIDECAR: Final = "percepnet sidecar "
_TWIN: Final = "percepnet: enhanced audio of "


def sidecar_display(name: str) -> str:
    """Under which a sidecar is in a room."""
    return _SIDECAR + name


def sidecar_name(display: str) -> str | None:
    """Of the sidecar that is in a room under ``display``; None where it is none."""
    return display.removeprefix(_SIDECAR) if display.startswith(_SIDECAR) else None


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


def patience(name: str, feed: Feed, sidecars: Iterable[str], newcomer: bool) -> float:
    """Seconds that the sidecar ``name`` waits for others before it begins a twin (rule 1).

    ``sidecars``: names of those in the room. ``newcomer``: whether the publisher was there before the sidecar.
    """
    others = set(sidecars) - {name}
    own = _weight(name, feed)
    place = sum(_weight(other, feed) < own for other in others)
    return GRACE * (place + 0.5 * bool(newcomer and others))


def beaten(own: Feed, twins: Iterable[Feed]) -> bool:
    """Whether the twin ``own`` has to go, where there are ``twins`` of the same publisher."""
    return any(_order(twin) < _order(own) for twin in twins)


def _order(feed: Feed) -> tuple[int, str]:
    """Numbers by their size, also where ids are texts."""
    return len(str(feed)), str(feed)


def _weight(name: str, feed: Feed) -> bytes:
    return hashlib.sha256(f"{name} {feed}".encode()).digest()
