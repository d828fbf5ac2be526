"""Charts as inline SVG, without a library: areas over time, stacked. Colours come from the page's style."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Final

from ..model.html import Html, tag, text
from . import formatting

WIDTH: Final = 960
HEIGHT: Final = 260
_LEFT: Final = 92  # room for the labels of the vertical axis
_RIGHT: Final = 12
_TOP: Final = 12
_BOTTOM: Final = 30
# distances of ticks on the time axis, in seconds, and how they are labelled
_TICKS: Final = (
    *((seconds, "%H:%M:%S") for seconds in (1, 5, 10, 30)),
    *((seconds, "%H:%M") for seconds in (60, 300, 900, 3600)),
    *((seconds, "%a %H:%M") for seconds in (3 * 3600, 6 * 3600)),
    *((days * 86400, "%d %b") for days in (1, 2, 7, 28)),
)


def stacked(begin: float, step: float, series: Mapping[str, Sequence[float]], label: str) -> Html:
    """Return areas over time, one upon the other, with a legend.

    Args:
        begin: time of the first column, in Unix seconds.
        step: seconds between two columns.
        series: name → bytes per second in each column, the lowest area first.
        label: what the chart shows, for those who do not see it.
    """
    count = max((len(values) for values in series.values()), default=0)
    if count == 0:
        return tag("p", "No bytes were received yet.", class_="quiet")
    tops = [sum(values[column] for values in series.values()) for column in range(count)]
    most = nice(max(tops))
    drawn = [*_grid(most), *_time_axis(begin, step * count), *_areas(series, count, most)]
    picture = tag(
        "svg", tag("title", label), drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label,
        class_="chart",
    )  # fmt: skip
    legend = [
        tag("li", tag("span", class_=f"key s{number}"), name) for number, name in enumerate(series)
    ] if len(series) > 1 else []  # fmt: skip
    return tag("figure", picture, tag("ul", legend, class_="legend") if legend else None, tabindex="0")


def nice(value: float) -> float:
    """Return a round number in binary units that is at least `value`, for the top of an axis."""
    if value <= 0:
        return 1.0
    unit = 1024.0 ** min(4, max(0, math.floor(math.log(value, 1024))))
    scaled = value / unit
    for step in (1, 2, 4, 8, 12, 16, 20, 40, 60, 80, 100, 200, 400, 600, 800, 1024):
        if scaled <= step:
            return step * unit
    return scaled * unit


def _x(share: float) -> float:
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _grid(most: float) -> list[Html]:
    """Return four horizontal lines with their labels."""
    made = []
    for quarter in range(5):
        y = round(_y(quarter / 4), 1)
        made.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        label = f"{formatting.size(most * quarter / 4)}/s" if quarter else "0"
        made.append(tag("text", label, x=_LEFT - 8, y=y + 4, class_="end"))
    return made


def _time_axis(begin: float, span: float) -> list[Html]:
    """Return the labels of the time axis, six or so, at round local times."""
    step, form = next((each for each in _TICKS if span / each[0] <= 8), _TICKS[-1])
    offset = time.localtime(begin).tm_gmtoff
    first = math.ceil((begin + offset) / step) * step - offset
    made: list[Html] = []
    when = float(first)
    while when <= begin + span and len(made) < 20:
        x = round(_x((when - begin) / span), 1)
        if x < WIDTH - 40:
            said = time.strftime(form, time.localtime(when))
            made.append(tag("text", said, x=x, y=HEIGHT - 8, class_="mid"))
            made.append(tag("line", x1=x, x2=x, y1=_y(0), y2=_y(0) + 5, class_="grid"))
        when += step
    return made


def _areas(series: Mapping[str, Sequence[float]], count: int, most: float) -> list[Html]:
    """Return one path for each series."""
    below = [0.0] * count
    made = []
    for number, (name, values) in enumerate(series.items()):
        above = [low + value for low, value in zip(below, values, strict=True)]
        edge = [*_steps(above, most), *reversed(_steps(below, most))]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in edge) + "Z"
        top = f"{name}: up to {formatting.size(max(values))}/s"
        made.append(Html(f'<path d="{path}" class="a{number}"><title>{text(top)}</title></path>'))
        below = above
    return made


def _steps(values: Sequence[float], most: float) -> list[tuple[float, float]]:
    """Return the corners of columns: each value holds for the width of its column."""
    made = []
    for column, value in enumerate(values):
        y = _y(value / most)
        made += [(_x(column / len(values)), y), (_x((column + 1) / len(values)), y)]
    return made
