"""A line chart as inline SVG, for pages of the documentation: no library, and the same bytes every time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 52, 46, 14, 150
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")

Line = Sequence[tuple[float, float]]


def chart(lines: Mapping[str, Line], *, x_title: str, y_title: str, log: bool = False) -> str:
    """One polyline a name over `(x, y)`; a dashed line ends in `~` in its name. The y axis runs from 0 to 100.

    Args:
        lines: name -> points, x rising.
        x_title: below the axis.
        y_title: beside it.
        log: logarithmic x axis.
    """
    values = sorted({x for line in lines.values() for x, _ in line})
    place = math.log if log else float
    low, high = place(values[0]), place(values[-1])

    def at(x: float, y: float) -> str:
        across = LEFT + (place(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{HEIGHT - BOTTOM - y / 100 * (HEIGHT - BOTTOM - TOP):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="sans-serif" font-size="11" fill="#666">'
    ]
    parts += [_level(y, at(values[0], y), at(values[-1], y)) for y in (0, 25, 50, 75, 100)]
    parts += [_tick(x, at(x, 0)) for x in _apart(values, place)]
    for number, (name, line) in enumerate(lines.items()):
        parts += _line(name, " ".join(at(x, y) for x, y in line), number)
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{x_title}</text>')
    parts.append(f'<text transform="translate(12 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">{y_title}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _level(y: int, start: str, end: str) -> str:
    x1, y1 = start.split(",")
    x2, y2 = end.split(",")
    line = f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#ccc" stroke-width="0.7"/>'
    return f'{line}<text x="{float(x1) - 6:.1f}" y="{float(y1) + 4:.1f}" text-anchor="end">{y}</text>'


def _tick(x: float, place: str) -> str:
    across, down = place.split(",")
    return f'<text x="{across}" y="{float(down) + 16:.1f}" text-anchor="middle">{x:g}</text>'


def _apart(values: Sequence[float], place: object) -> list[float]:
    """The values whose labels do not run into each other: a twentieth of the axis apart."""
    shown: list[float] = []
    scale = place(values[-1]) - place(values[0])  # type: ignore[operator]
    for x in values:
        if not shown or place(x) - place(shown[-1]) > scale / 14:  # type: ignore[operator]
            shown.append(x)
    return shown


def _line(name: str, points: str, number: int) -> list[str]:
    """The polyline, and its entry beside the chart."""
    colour, dashed = COLOURS[number // 2 % len(COLOURS)], ' stroke-dasharray="5 4"' if name.endswith("~") else ""
    down = TOP + 14 + 17 * number
    style = f'fill="none" stroke="{colour}" stroke-width="1.8"{dashed}'
    x = WIDTH - RIGHT + 14
    return [
        f'<polyline points="{points}" {style}/>',
        f'<line x1="{x}" y1="{down - 4}" x2="{x + 22}" y2="{down - 4}" {style}/>'
        f'<text x="{x + 28}" y="{down}">{name.rstrip("~")}</text>',
    ]
