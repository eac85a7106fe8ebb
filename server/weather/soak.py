"""A server under calls that come, go, lose packets and turn controls for long: does it stay as it is?"""

from collections.abc import Callable
from typing import Any, Final

from server.loadtest import charts
from server.loadtest.page import figure, render
from server.loadtest.result import over_time, result
from server.loadtest.run import Run
from server.loadtest.summary import details, shown, table
from server.loadtest.watch import Sample

from .flat import Course, Quantity, judged

MEGABYTE: Final = 1 << 20
# What a leak of one in ten calls exceeds in ten minutes, and callers who come and go do not.
QUANTITIES: Final = (
    Quantity("memory", "MB", 8.0),
    Quantity("descriptors", "", 5.0),
    Quantity("threads", "", 2.0),
    Quantity("tasks", "", 10.0),
    Quantity("delay", "ms", 3.0),
    Quantity("missing audio", "%", 0.2),
)


def judge(run: Run) -> dict[str, Any]:
    """The verdict on each quantity by name, in plain types, and the load's own result."""
    time = over_time(run)
    courses: dict[str, Course] = {
        "memory": _course(run, lambda sample: round(sample.rss_bytes / MEGABYTE, 1)),
        "descriptors": _course(run, lambda sample: sample.fds),
        "threads": _course(run, lambda sample: sample.threads),
        "tasks": _course(run, lambda sample: sample.tasks),
        "delay": list(zip(time["second"], time["delay_p50_ms"], strict=True)),
        "missing audio": list(zip(time["second"], time["missing_percent"], strict=True)),
    }
    verdicts = {quantity.name: judged(quantity, courses[quantity.name]) for quantity in QUANTITIES}
    return {"quantities": verdicts, "load": result(run)}


def is_flat(found: dict[str, Any]) -> bool:
    """No quantity has grown; one that was not seen has not."""
    return all(verdict["flat"] is not False for verdict in found["quantities"].values())


def summary(found: dict[str, Any]) -> str:
    """A line for each quantity, and the calls."""
    lines = [f"{'':<15}{'median':>12}{'growth':>12}{'allowed':>12}"]
    for name, verdict in found["quantities"].items():
        unit = f" {verdict['unit']}" if verdict["unit"] else ""
        cells = [shown(verdict[key], unit, 1) for key in ("median", "growth", "allowance")]
        said = {True: "flat", False: "GROWS", None: "not seen"}[verdict["flat"]]
        lines.append(f"{name:<15}" + "".join(f"{cell:>12}" for cell in cells) + f"  {said}")
    lines.append("growth: of the second half, by the slope of Theil and Sen")
    return "\n".join([*lines, "", table([found["load"]]), details(found["load"])])


def page(found: dict[str, Any]) -> str:
    """``found`` as ``percepnet soak --json`` prints it."""
    figures = []
    for name, verdict in found["quantities"].items():
        unit = verdict["unit"] or name
        figures.append(figure(name.capitalize(), charts.lines({name: verdict["over_time"]}, "seconds", unit)))
    calls = {"calls": found["load"]["over_time"]["calls"]}
    figures.append(figure("Calls", charts.lines(calls, "seconds", "calls")))
    options = found["load"]["options"]
    return render(
        title="PercepNet over a long time",
        machine=found["machine"],
        options=", ".join(
            f"{name} {options[name]}" for name in ("seconds", "weather", "churn", "toggle", "seed")
        ),
        text=[summary(found)],
        figures=figures,
    )


def _course(run: Run, value: Callable[[Sample], float | None]) -> Course:
    return [(sample.at - run.begin, value(sample)) for sample in run.samples]
