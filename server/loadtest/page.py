"""The report of a load test: one HTML page that needs nothing else."""

import html
from collections.abc import Callable, Sequence
from importlib.resources import files
from string import Template
from typing import Any, Final

from . import charts, summary
from .compare import OURS

CALL_COLUMNS: Final = (
    *("call", "outcome", "set-up, ms", "seconds", "sent", "returned", "missing, %"),
    *("delay p50, ms", "p95", "p99", "enhanced"),
)
CALL_LIMIT: Final = 200  # calls that the table at the end shows


def page(found: dict[str, Any]) -> str:
    """``found`` as ``percepnet load --json`` prints it."""
    steps = found["steps"]
    servers = list(dict.fromkeys(step.get("server_name", "") for step in steps))
    figures = []
    if len(steps) > 1 and "in_a_row" not in found:
        figures += _curves(steps, servers)
    longest = max(steps, key=lambda step: step["options"]["calls"] if step["overall"]["calls"]["ok"] else 0)
    figures += _course(longest)
    notes = [summary.verdict(found["comparison"])] if "comparison" in found else []
    notes += [summary.held(found["in_a_row"])] if "in_a_row" in found else []
    return render(
        title="PercepNet under load",
        machine=found["machine"],
        options=_options(steps[0]["options"]),
        text=[summary.table(steps), *notes, summary.details(longest)],
        figures=figures,
        more=_calls(longest["calls"]),
    )


def render(
    *,
    title: str,
    machine: dict[str, Any],
    options: str,
    text: Sequence[str],
    figures: Sequence[str],
    more: str = "",
) -> str:
    """A page: ``text`` as it is, ``figures`` side by side, and ``more`` HTML below."""
    template = Template(files("server.loadtest").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        machine=html.escape("{processor}, {cores} cores, {system}; {date}".format(**machine)),
        options=html.escape(options),
        text="\n".join(f"<pre>{html.escape(part)}</pre>" for part in text),
        charts="\n".join(figures),
        more=more,
    )


def figure(title: str, chart: str) -> str:
    """A chart with its title."""
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{chart}</figure>"


def _curves(steps: Sequence[dict[str, Any]], servers: Sequence[str]) -> list[str]:
    """What depends on the number of calls."""

    def curve(value: Callable[[dict[str, Any]], float | None]) -> dict[str, charts.Points]:
        return {
            name: [
                (step["options"]["calls"], value(step))
                for step in sorted(steps, key=lambda step: step["options"]["calls"])
                if step.get("server_name", "") == name
            ]
            for name in servers
        }

    def cost(step: dict[str, Any]) -> float | None:
        return (step["server"] or {}).get("cpu_percent_per_call")

    def late(step: dict[str, Any]) -> float | None:
        return (step["overall"]["delay_ms"] or {}).get("p99")

    def missing(step: dict[str, Any]) -> float | None:
        return step["overall"]["missing_percent"]

    limit = OURS.delay_p99_ms
    return [
        figure("Cost per call", charts.lines(curve(cost), "calls", "% of a core per call")),
        figure("Delay, p99", charts.lines(curve(late), "calls", "ms", limit)),
        figure("Audio missing", charts.lines(curve(missing), "calls", "% of audio time")),
    ]


def _course(step: dict[str, Any]) -> list[str]:
    """What happened in the course of one load."""
    time, server = step["over_time"], step["server"] or {}
    seconds, x = time["second"], "seconds"
    delay = {name: list(zip(seconds, time[f"delay_{name}_ms"], strict=True)) for name in ("p50", "p99")}
    gone = {"missing": list(zip(seconds, time["missing_percent"], strict=True))}
    calls = {"calls": time["calls"], "refused": time["refused"]}
    if any(shed for _, shed in time["shed"]):
        calls["shed"] = time["shed"]
    batches = {int(size): count for size, count in server.get("batches", {}).items()}
    name = f"{step.get('server_name', '')} {step['options']['calls']} calls".strip()
    figures = [
        figure(f"Calls over time ({name})", charts.lines(calls, x, "calls")),
        figure("Delay over time", charts.lines(delay, x, "ms", OURS.delay_p99_ms)),
        figure("Audio missing over time", charts.lines(gone, x, "% of audio time")),
    ]
    if time["cpu_percent"]:
        spent = {"server": time["cpu_percent"]}
        figures.append(figure("The server's processor time", charts.lines(spent, x, "% of a core")))
    if batches:
        figures.append(figure("Batches", charts.bars(batches, "calls in a batch", "batches")))
    return figures


def _options(options: dict[str, Any]) -> str:
    shown = {name: value for name, value in options.items() if value not in (None, False, 0.0, "")}
    shown.pop("calls")
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def _calls(calls: Sequence[dict[str, Any]]) -> str:
    rows = []
    for call in calls[:CALL_LIMIT]:
        delay = call["delay_ms"] or {}
        cells = [
            f"{call['caller']}.{call['call']}",
            call["outcome"],
            _cell(call["setup_ms"]),
            _cell(call["seconds"]),
            call["packets"]["sent"],
            call["packets"]["returned"],
            _cell(call["missing_percent"]),
            _cell(delay.get("p50")),
            _cell(delay.get("p95")),
            _cell(delay.get("p99")),
            {True: "yes", False: "no", None: "–"}[call["enhanced"]],
        ]
        rows.append(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in cells)}</tr>")
    heads = "".join(f"<th>{head}</th>" for head in CALL_COLUMNS)
    return (
        f'<h2>Calls</h2>\n<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody>\n</table></div>"
    )


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
