"""``GET /calls``: a line about each call for those who watch the server.

They may not know its whole id, nor the whole name of its room: who knows that may listen there, or take its other seat.
"""

from collections.abc import Mapping
from typing import Any, Final

from .call import Call

TOLD: Final = 4  # letters of a room's name


def line(call: Call) -> dict[str, object]:
    """Ready for JSON; None for what a listener does not have, or is not known yet."""
    report: dict[str, Any] = call.report()
    packets, delay = report.get("packets", {}), report.get("delay", {})
    lost = packets.get("lost")
    waiting = delay.get("server_p50_ms")
    return {
        "id": str(call),
        **{name: report[name] for name in ("role", "state", "age_s")},
        "room": _shortened(report["room"]),
        "enhancement": report.get("enhancement"),
        "loss": round(lost / max(1, _in_time(packets) + lost), 4) if packets.get("received") else None,
        "delay_ms": None if waiting is None else round(delay["algorithm_ms"] + waiting, 1),
    }


def _shortened(room: str | None) -> str | None:
    return room if room is None or len(room) <= TOLD else f"{room[:TOLD]}…"


def _in_time(packets: Mapping[str, int]) -> int:
    """Packets that came once and were no loss: one that is late was given up before."""
    return packets["received"] - packets["late"] - packets["duplicate"] - packets["stray"]
