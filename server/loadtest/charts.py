"""Line and bar charts as SVG, coloured by the page's style sheet: classes ``c0``, ``c1``, … in order."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40  # margins, which hold the axes' labels
TICKS: Final = 5

Points = Sequence[tuple[float, float | None]]  # a hole in the line where y is None


def lines(series: Mapping[str, Points], x_label: str, y_label: str, limit: float | None = None) -> str:
    """One line for each of ``series``, from 0 upwards, and a dashed one at ``limit``; a note where none has points."""
    known = [(x, y) for points in series.values() for x, y in points if y is not None]
    if not known:
        return '<p class="none">nothing measured</p>'
    low, high = min(x for x, _ in known), max(x for x, _ in known)
    top = _round_up(max([y for _, y in known] + [limit or 0.0]))
    frame = _Frame(low if low > 1 else 0.0, max(high, low + 1e-9, 1.0 if low <= 1 else 0.0), top)
    parts = [frame.axes(x_label, y_label)]
    if limit is not None:
        y = frame.y(limit)
        parts.append(f'<path class="limit" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
    for number, points in enumerate(series.values()):
        parts.append(f'<path class="line c{number}" d="{_path(points, frame)}"/>')
        if len(points) <= 40:
            parts += [
                f'<circle class="c{number}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3">'
                f"<title>{x:g}: {y:g}</title></circle>"
                for x, y in points
                if y is not None
            ]
    return _svg(parts) + _legend(list(series))


def bars(values: Mapping[int, float], x_label: str, y_label: str) -> str:
    """A bar for each whole number from 1 to the largest."""
    if not values:
        return '<p class="none">nothing measured</p>'
    most = max(values)
    frame = _Frame(0.5, most + 0.5, _round_up(max(values.values())))
    width = max(1.0, 0.8 * (frame.x(2) - frame.x(1)))
    parts = [frame.axes(x_label, y_label)]
    parts += [
        f'<rect class="c0" x="{frame.x(at) - width / 2:.1f}" y="{frame.y(value):.1f}" width="{width:.1f}" '
        f'height="{frame.y(0) - frame.y(value):.1f}"><title>{at}: {value:g}</title></rect>'
        for at, value in values.items()
    ]
    return _svg(parts)


class _Frame:
    """From values to pixels."""

    def __init__(self, low: float, high: float, top: float) -> None:
        self.low, self.high, self.top = low, high, top

    def x(self, value: float) -> float:
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)

    def axes(self, x_label: str, y_label: str) -> str:
        parts = []
        for tick in _ticks(0, self.top):
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>')
        for tick in _ticks(self.low, self.high):
            parts.append(f'<text class="x" x="{self.x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}">{tick:g}</text>')
        parts.append(
            f'<text class="x label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}">{html.escape(x_label)}</text>'
        )
        middle = (TOP + HEIGHT - BOTTOM) / 2
        parts.append(
            f'<text class="x label" transform="translate(12 {middle}) rotate(-90)">{html.escape(y_label)}</text>'
        )
        return "".join(parts)


def _path(points: Points, frame: _Frame) -> str:
    parts, pen_down = [], False
    for x, y in points:
        if y is not None:
            parts.append(f"{'L' if pen_down else 'M'}{frame.x(x):.1f} {frame.y(y):.1f}")
        pen_down = y is not None
    return "".join(parts)


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that ``span`` has about ``TICKS`` of it."""
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / TICKS * 0.999)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 9) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_up(value: float) -> float:
    """The top of an axis that holds ``value`` and ends at a tick."""
    if value <= 0:
        return 1.0
    step = _step(value)
    return math.ceil(value / step - 1e-9) * step


def _svg(parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(f'<li class="c{number}">{html.escape(name)}</li>' for number, name in enumerate(names))
    return f"<ul>{items}</ul>"
