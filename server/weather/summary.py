"""What calls became in bad weather: as a table for people, and as a page."""

from collections.abc import Sequence
from typing import Any, Final

from server.loadtest import charts
from server.loadtest.page import figure, render
from server.loadtest.result import MOST_TARDY
from server.loadtest.summary import shown

COLUMNS: Final = (  # head, width
    ("server", 11),
    ("call", 8),
    ("missing", 10),
    ("concealed", 11),
    ("delay before", 14),
    ("after", 11),
    ("PESQ", 7),
)
LEGEND: Final = (
    "missing: % of the audio time in the weather that did not come back; concealed: made up by the server, as it\n"
    "says itself; delay: of the audio, in the calm before the weather and in the last seconds of the call; PESQ: of\n"
    "what came back in the weather, holes as silence, against what was said. Enhancement is off: this compares\n"
    "transports."
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """A line for each condition and server."""
    first = max(len(result["condition"]) for result in results)
    lines = [" " * first + "".join(f"{head:>{width}}" for head, width in COLUMNS)]
    shown = ""
    for result in results:
        name = "" if result["condition"] == shown else result["condition"]
        shown = result["condition"]
        cells = zip(_cells(result), COLUMNS, strict=True)
        lines.append(f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell, (_, width) in cells))
    reasons = {f"{result['server_name']}: {result['reason']}" for result in results if result["reason"]}
    tardy = max(result["tardiness_ms"] for result in results)
    late = [f"the callers were too busy to be on time: they sent up to {tardy:.0f} ms late (p99)"]
    return "\n".join([*lines, *sorted(reasons), *(late if tardy > MOST_TARDY else []), "", LEGEND])


def page(found: dict[str, Any]) -> str:
    """``found`` as ``percepnet weather --json`` prints it."""
    results = found["results"]
    figures = []
    for condition in dict.fromkeys(result["condition"] for result in results):
        courses = {
            result["server_name"]: [(at, ms) for at, ms in result["delay_ms"]]
            for result in results
            if result["condition"] == condition
        }
        figures.append(figure(f"Delay: {condition}", charts.lines(courses, "seconds", "ms")))
    return render(
        title="Calls in bad weather",
        machine=found["machine"],
        options=", ".join(f"{name} {value}" for name, value in found["options"].items() if value),
        text=[table(results)],
        figures=figures,
    )


def _cells(result: dict[str, Any]) -> list[str]:
    return [
        result["server_name"],
        result["outcome"],
        shown(result["missing_percent"], " %", 2),
        shown(result["concealed_percent"], " %", 2),
        shown(result["delay_before_ms"], " ms", 0),
        shown(result["delay_after_ms"], " ms", 0),
        shown(result["pesq_wb"], "", 2),
    ]
