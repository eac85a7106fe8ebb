"""The figures of loads as text for people."""

from collections.abc import Sequence
from typing import Any, Final

COLUMNS: Final = (  # head, width
    ("calls", 6),
    ("refused", 8),
    ("failed", 7),
    ("missing", 9),
    ("delay p50", 10),
    ("p95", 7),
    ("p99", 10),
    ("set-up p50", 11),
    ("enhanced", 9),
    ("cpu/call", 9),
    ("MB/call", 8),
    ("callers", 9),
)


def table(steps: Sequence[dict[str, Any]]) -> str:
    """A line for every load; with the server's name before it and what was out of bounds behind, if it has them."""
    named = max((len(step.get("server_name", "")) for step in steps), default=0)
    lines = [" " * named + "".join(f"{head:>{width}}" for head, width in COLUMNS)]
    for step in steps:
        cells = "".join(f"{cell:>{width}}" for cell, (_, width) in zip(_cells(step), COLUMNS, strict=True))
        reasons = "; ".join(step.get("out_of_bounds", []))
        lines.append(f"{step.get('server_name', ''):<{named}}{cells}{'  ' + reasons if reasons else ''}")
    return "\n".join(lines)


def details(step: dict[str, Any]) -> str:
    """What a table has no room for: packets, batches, recovery, and why calls were not made."""
    found, server = step["overall"], step["server"]
    packets = found["packets"]
    lines = [
        f"packets: {packets['sent']} sent, {packets['lost_on_purpose']} of them lost on purpose, "
        f"{packets['returned']} returned"
    ]
    if found["worst_call_missing_percent"]:
        lines.append(f"worst call: {found['worst_call_missing_percent']:.2f} % of its audio missing")
    if server and server.get("batches"):
        batches = ", ".join(f"{size}: {count}" for size, count in server["batches"].items())
        lines.append(f"batches: {batches}")
    if server and server.get("most_shed"):
        lines.append(f"shed at most: {server['most_shed']} calls at once")
    if server and server["recovery_s"] is not None:
        lines.append(f"server as before {server['recovery_s']:.1f} s after the last call")
    if not step["callers"]["on_time"]:
        tardy = step["callers"]["tardiness_p99_ms"]
        lines.append(f"the callers were too busy to be on time: they sent up to {tardy:.0f} ms late (p99)")
    reasons = {call["reason"]: call["outcome"] for call in step["calls"] if call["outcome"] != "ok"}
    lines += [f"{outcome}: {reason}" for reason, outcome in reasons.items()]
    return "\n".join(lines)


def held(leaks: dict[str, Any]) -> str:
    """What the server held after so many calls."""
    lines = [f"{'after calls':>11}{'files':>8}{'threads':>9}{'tasks':>7}{'memory':>11}"]
    for made, holdings in leaks["holdings"].items():
        tasks = "–" if holdings["tasks"] is None else holdings["tasks"]
        memory = f"{holdings['memory_mb']:.1f} MB"
        lines.append(f"{made:>11}{holdings['fds']:>8}{holdings['threads']:>9}{tasks:>7}{memory:>11}")
    verdict = {
        True: "all given back",
        False: "NOT all given back",
        None: "cannot be told: the server was not seen, or not all calls were made",
    }
    return "\n".join([*lines, verdict[leaks["given_back"]]])


def verdict(comparison: dict[str, Any]) -> str:
    """The result of a comparison in two sentences."""
    counts = ", ".join(
        f"{name} {'' if comparison['limited'][name] else 'at least '}{count}"
        for name, count in comparison["carried"].items()
    )
    ours, other = comparison["limited"].values()
    about = {(True, True): "", (False, True): "at least ", (True, False): "at most "}.get((ours, other))
    ratio = "" if comparison["finished"] else "; interrupted"
    if comparison["ratio"] and about is not None:
        ratio = f"; {about}{comparison['ratio']:.1f} times as many{ratio}"
    bounds = "; ".join(
        f"{name}: delay p99 ≤ {bound['delay_p99_ms']:g} ms, growing by ≤ {bound['drift_ms']:g} ms, "
        f"< {bound['missing_percent']:g} % missing{', enhanced' if bound['enhanced'] else ''}"
        for name, bound in comparison["bounds"].items()
    )
    return f"calls carried by one core: {counts}{ratio}\nwithin {bounds}"


def _cells(step: dict[str, Any]) -> list[str]:
    found, server = step["overall"], step["server"] or {}
    delay, setup, calls = found["delay_ms"] or {}, found["setup_ms"] or {}, found["calls"]
    judged = found["enhanced"]
    return [
        str(step["options"]["calls"]),
        str(calls["refused"]),
        str(calls["failed"] + calls["broken"]),
        shown(found["missing_percent"], " %", 2),
        shown(delay.get("p50"), "", 1),
        shown(delay.get("p95"), "", 1),
        shown(delay.get("p99"), " ms", 1),
        shown(setup.get("p50"), " ms", 0),
        f"{judged['enhanced']}/{judged['checked']}",
        shown(server.get("cpu_percent_per_call"), " %", 1),
        shown(server.get("memory_mb_per_call"), "", 1),
        shown(step["callers"]["cpu_percent"], " %", 0),
    ]


def shown(value: float | None, unit: str, digits: int) -> str:
    """A figure in a table; a dash for one that is not known."""
    return "–" if value is None else f"{value:.{digits}f}{unit}"
