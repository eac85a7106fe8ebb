"""``GET /calls``: a line about each call for those who watch the server, who may not know its whole id."""

from typing import Any

from .call import Call


def line(call: Call) -> dict[str, object]:
    """Ready for JSON; None for what a listener does not have, or is not known yet."""
    report: dict[str, Any] = call.report()
    packets, delay = report.get("packets", {}), report.get("delay", {})
    received, lost = packets.get("received"), packets.get("lost")
    waiting = delay.get("server_p50_ms")
    return {
        "id": str(call),
        **{name: report[name] for name in ("role", "room", "state", "age_s")},
        "enhancement": report.get("enhancement"),
        "loss": round(lost / (received + lost), 4) if received else None,
        "delay_ms": None if waiting is None else round(delay["algorithm_ms"] + waiting, 1),
    }
