"""The curve of a benchmark, goodput over connections, as text, HTML or PNG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ..model.errors import SettingsError
from ..views import formatting
from .sweep import Point

# Characters of the longest bar.
_BAR: Final = 40
# Size of the SVG drawing and its margin for labels, in SVG user units.
_WIDTH: Final = 720
_HEIGHT: Final = 360
_MARGIN: Final = 88


def line(point: Point, most: float) -> str:
    """Return one point as a line of text with a bar.

    Args:
        point: The measurement.
        most: Goodput in bytes per second that has the longest bar; 0 for no bar.
    """
    bar = "█" * max(1, round(_BAR * point.goodput / most)) if point.goodput and most else ""
    refused = f"  refused {point.refused} times" if point.refused else ""
    rate = f"{formatting.size(point.goodput)}/s"
    return f"{point.connections:>5}  {rate:>13}  {bar}{refused}"


def as_html(host: str, points: Sequence[Point], chosen: Point, note: str = "") -> str:
    """Return a self-contained HTML page with the curve as SVG and the points as a table.

    Args:
        host: The measured host.
        points: The measurements, sorted by connections.
        chosen: The best of them.
        note: Why the measurement ended early, empty if it did not.
    """
    most = max(point.goodput for point in points) or 1.0
    rows = "".join(
        f"<tr{' class=best' if point == chosen else ''}><td>{point.connections}</td>"
        f"<td>{formatting.size(point.goodput)}/s</td><td>{point.latency * 1000:.1f} ms</td>"
        f"<td>{point.refused or ''}</td></tr>"
        for point in points
    )
    spots = [(_x(point.connections, points), _y(point.goodput, most), point) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in spots)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if point == chosen else 4}" '
        f'class="{"best" if point == chosen else "refused" if point.refused else "dot"}">'
        f"<title>{point.connections} connections: {formatting.size(point.goodput)}/s</title></circle>"
        f'<text x="{x:.1f}" y="{_HEIGHT - _MARGIN + 20}" text-anchor="middle">{_label(point)}</text>'
        for x, y, point in spots
    )
    scale = "".join(
        f'<line x1="{_MARGIN}" x2="{_WIDTH - 20}" y1="{_y(v, most):.1f}" y2="{_y(v, most):.1f}"/>'
        f'<text x="{_MARGIN - 8}" y="{_y(v, most) + 4:.1f}" text-anchor="end">{formatting.size(v)}/s</text>'
        for v in (0, most / 4, most / 2, most * 3 / 4, most)
    )
    said = f"Best: {chosen.connections} connections, {formatting.size(chosen.goodput)}/s. {note}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>osp-fetch bench {html.escape(host)}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2rem auto; padding: 0 1rem }}
svg {{ width: 100%; height: auto }} svg text {{ font-size: 12px; fill: #555 }}
svg line {{ stroke: #ddd }} polyline {{ fill: none; stroke: #2563eb; stroke-width: 2 }}
.dot {{ fill: #2563eb }} .best {{ fill: #15803d; font-weight: bold }} .refused {{ fill: #dc2626 }}
tr.best {{ background: #dcfce7 }}
td, th {{ text-align: right; padding: .1rem .8rem }}
</style></head><body>
<h1>{html.escape(host)}</h1><p>{html.escape(said)}</p>
<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="connections and goodput">
{scale}<polyline points="{path}"/>{dots}
<text x="{_WIDTH / 2}" y="{_HEIGHT - 16}" text-anchor="middle">connections</text></svg>
<table><tr><th>connections</th><th>goodput</th><th>latency</th><th>refused</th></tr>{rows}</table>
</body></html>
"""


def _label(point: Point) -> str:
    return str(point.connections) if point.connections.bit_count() == 1 else ""


def _x(connections: int, points: Sequence[Point]) -> float:
    """Return the x coordinate, on a logarithmic scale: the numbers of connections were doubled."""
    numbers = [math.log2(point.connections) for point in points]
    low, high = min(numbers), max(numbers)
    share = (math.log2(connections) - low) / (high - low) if high > low else 0.5
    return _MARGIN + 12 + share * (_WIDTH - _MARGIN - 44)


def _y(goodput: float, most: float) -> float:
    return _HEIGHT - _MARGIN - goodput / most * (_HEIGHT - _MARGIN - 24)


def check_png() -> None:
    """Check that PNGs can be drawn.

    Raises:
        SettingsError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise SettingsError(
            "--png needs matplotlib: pip install 'osp-fetch[plot]', or use --html, which needs no library"
        )


def draw_png(place: Path, host: str, points: Sequence[Point], chosen: Point) -> None:
    """Draw the curve as a PNG.

    Args:
        place: File to write.
        host: The measured host.
        points: The measurements, sorted by connections.
        chosen: The best of them.

    Raises:
        SettingsError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    check_png()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    numbers = [point.connections for point in points]
    axes.plot(numbers, [point.goodput / 1e6 for point in points], marker="o")
    axes.plot([chosen.connections], [chosen.goodput / 1e6], marker="o", markersize=12, color="green")
    for point in points:
        if point.refused:
            axes.plot([point.connections], [point.goodput / 1e6], marker="x", markersize=12, color="red")
    axes.set_xscale("log", base=2)
    doubled = [number for number in numbers if number.bit_count() == 1]
    axes.set_xticks(doubled, [str(number) for number in doubled])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_ylabel("goodput, MB/s")
    axes.set_title(f"{host}: {chosen.connections} connections, {chosen.goodput / 1e6:.1f} MB/s")
    axes.grid(alpha=0.3)
    figure.savefig(place, dpi=120)
