"""The curves of a benchmark, goodput over connections for each part size, as text, HTML, CSV or PNG."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ..model.errors import SettingsError
from .levels import Point, part_text
from .measure import Bench
from .verdict import rate, sentences, spread

# Characters of the longest bar.
_BAR: Final = 30
# Size of the SVG drawing and its margin for labels, in SVG user units.
_WIDTH: Final = 720
_HEIGHT: Final = 360
_MARGIN: Final = 88
# Colours of the curves, in the order of the part sizes. They differ in lightness, too.
_COLOURS: Final = ("#2563eb", "#d97706", "#7c3aed", "#0e7490", "#be185d", "#4d7c0f", "#6b7280", "#92400e")


def line(point: Point, most: float) -> str:
    """Return one point as a line of text with a bar.

    Args:
        point: The measurement.
        most: Goodput in bytes per second that has the longest bar; 0 for no bar.
    """
    level = point.level
    bar = "█" * max(1, round(_BAR * point.goodput / most)) if point.goodput and most else ""
    refused = f"  refused {point.refused} times" if point.refused else ""
    unsteady = "" if point.steady else "  not steady"
    processes = f"  {level.processes} processes" if level.processes else ""
    return (
        f"{level.connections or 'auto':>6} {part_text(level.part_size):>7} {rate(point.goodput):>13} "
        f"{spread(point):>15}  {bar}{processes}{refused}{unsteady}"
    )


HEADER: Final = f"{'conn.':>6} {'parts':>7} {'goodput':>13} {'95 %':>15}"
"""The heading of the columns of `line`."""


def curves(points: Sequence[Point]) -> Iterator[tuple[str, list[Point]]]:
    """Yield the name of each curve and its points, sorted by connections.

    Args:
        points: The measurements of fixed levels.
    """
    named: dict[str, list[Point]] = {}
    for point in points:
        processes = f", {point.level.processes} processes" if point.level.processes else ""
        named.setdefault(f"parts of {part_text(point.level.part_size)}{processes}", []).append(point)
    for name, found in named.items():
        yield name, sorted(found, key=lambda point: point.level.connections or 0)


def as_csv(found: Bench) -> str:
    """Return all points as CSV, auto last.

    Args:
        found: The result.
    """
    rows = [point.row() for point in [*found.points, *([found.auto] if found.auto else [])]]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        auto = {key: "auto" for key in ("connections", "part_size") if row[key] is None}
        writer.writerow({**row, **auto})
    return file.getvalue()


def as_html(found: Bench) -> str:
    """Return a self-contained HTML page with the curves as SVG and the points as a table.

    Args:
        found: The result.
    """
    said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences(found))
    points = [*found.points, *([found.auto] if found.auto else [])]
    rows = "".join(_row(point, is_best=point == found.best) for point in points)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>osp-fetch bench {html.escape(found.host)}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2rem auto; padding: 0 1rem }}
svg {{ width: 100%; height: auto }} svg text {{ font-size: 12px; fill: #555 }}
svg line {{ stroke: #ddd }} polyline {{ fill: none; stroke-width: 2 }}
.best {{ fill: #15803d; font-weight: bold }} .refused {{ fill: #dc2626 }}
tr.best {{ background: #dcfce7 }}
td, th {{ text-align: right; padding: .1rem .8rem }}
</style></head><body>
<h1>{html.escape(found.host)}</h1>{said}
{_drawing(found)}
<table><tr><th>connections</th><th>parts</th><th>processes</th><th>goodput</th><th>95 %</th>
<th>refused</th></tr>
{rows}</table>
</body></html>
"""


def _row(point: Point, *, is_best: bool) -> str:
    level = point.level
    cells = (
        level.connections or "auto", part_text(level.part_size), level.processes or "",
        rate(point.goodput), spread(point), point.refused or "",
    )  # fmt: skip
    mark = " class=best" if is_best else ""
    return f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _drawing(found: Bench) -> str:
    points = found.points
    most = max([point.goodput for point in points] + [found.auto.goodput if found.auto else 0]) or 1.0
    scale = "".join(
        f'<line x1="{_MARGIN}" x2="{_WIDTH - 20}" y1="{_y(v, most):.1f}" y2="{_y(v, most):.1f}"/>'
        f'<text x="{_MARGIN - 8}" y="{_y(v, most) + 4:.1f}" text-anchor="end">{rate(v)}</text>'
        for v in (0, most / 4, most / 2, most * 3 / 4, most)
    )
    drawn = "".join(
        _curve(number, name, curve, found, most) for number, (name, curve) in enumerate(curves(points))
    )
    numbers = sorted({point.level.connections or 1 for point in points if (point.level.connections or 1) > 0})
    labels = "".join(
        f'<text x="{_x(n, points):.1f}" y="{_HEIGHT - _MARGIN + 20}" text-anchor="middle">{n}</text>'
        for n in numbers
        if n.bit_count() == 1
    )
    auto = _auto_line(found, most)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="connections and goodput">\n'
        f'{scale}{drawn}{auto}{labels}<text x="{_WIDTH / 2}" y="{_HEIGHT - 40}" text-anchor="middle">'
        "connections</text></svg>"
    )


def _curve(number: int, name: str, points: Sequence[Point], found: Bench, most: float) -> str:
    colour = _COLOURS[number % len(_COLOURS)]
    spots = [(_x(p.level.connections or 1, found.points), _y(p.goodput, most), p) for p in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in spots)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if p == found.best else 4}" fill="{colour}" '
        f'class="{"best" if p == found.best else "refused" if p.is_refused else "dot"}">'
        f"<title>{p.level.connections} connections, {name}: {rate(p.goodput)} {spread(p)}</title></circle>"
        for x, y, p in spots
    )
    legend = f'<text x="{_MARGIN + number * 120}" y="{_HEIGHT - 14}" style="fill:{colour}">{name}</text>'
    return f'<polyline points="{path}" stroke="{colour}"/>{dots}{legend}'


def _auto_line(found: Bench, most: float) -> str:
    if found.auto is None:
        return ""
    y = _y(found.auto.goodput, most)
    return (
        f'<line x1="{_MARGIN}" x2="{_WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:#111" '
        f'stroke-dasharray="6 4"/><text x="{_WIDTH - 24}" y="{y - 6:.1f}" text-anchor="end">auto</text>'
    )


def _x(connections: int, points: Sequence[Point]) -> float:
    """Return the x coordinate, on a logarithmic scale: the numbers of connections were multiplied."""
    numbers = [math.log2(point.level.connections or 1) for point in points]
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


def draw_png(place: Path, found: Bench) -> None:
    """Draw the curves as a PNG.

    Args:
        place: File to write.
        found: The result.

    Raises:
        SettingsError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    check_png()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, points) in enumerate(curves(found.points)):
        x = [point.level.connections or 1 for point in points]
        y = [point.goodput / 1e6 for point in points]
        spans = [_half(point) / 1e6 for point in points]
        axes.errorbar(x, y, yerr=spans, marker="o", capsize=3, label=name, color=_COLOURS[number % 8])
    axes.plot([found.best.level.connections or 1], [found.best.goodput / 1e6], "o", ms=12, mfc="none", c="g")
    if found.auto:
        axes.axhline(found.auto.goodput / 1e6, color="black", linestyle="--", label="nothing fixed")
    numbers = sorted({point.level.connections or 1 for point in found.points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_ylabel("goodput, MB/s")
    axes.set_title(f"{found.host}: {found.best.level.flags}, {found.best.goodput / 1e6:.1f} MB/s")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(place, dpi=120, format="png")


def _half(point: Point) -> float:
    low, high = point.interval
    return (high - low) / 2 if math.isfinite(high) else 0.0
