"""A front as a table and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbit import _io
from mixbit.errors import MissingExtra
from mixbit.report.table import Table
from mixbit.report.units import count, hover, size

if TYPE_CHECKING:
    from mixbit.policy import Front, FrontPoint, Policy

__all__ = ["front_plot", "front_table"]

_AXES = (("BitOps", "bitops"), ("weight bytes", "weight_bytes"))


def front_table(front: Front, picked: Policy | None = None) -> Table:
    """All points by rising BitOps: costs, what was measured, and what no other one beats.

    Args:
        front: with costs, see `mixbit.policy.Front.check`.
        picked: a policy of the front, to be marked.
    """
    names = list(front.points[0].quality)
    columns = ("policy", *(f">{name}" for name in names), ">BitOps", ">weight bytes", ">peak activation bytes", "")
    best = _unbeaten(front)
    rows = tuple(
        (
            _name(front, point),
            *(front.text(name, point.quality[name]) for name in names),
            count(point.costs["bitops"]),
            size(point.costs["weight_bytes"]),
            size(point.costs["activation_bytes"]),
            ", ".join(_marks(point, best, picked)),
        )
        for point in sorted(front.points, key=lambda one: (one.costs["bitops"], one.costs["weight_bytes"]))
    )
    notes = (f"Measured on {front.measured.on}.", "best: no other policy has as few BitOps and is as good.")
    return Table(title=f"Front of {front.method}", columns=columns, rows=rows, notes=notes)


def _name(front: Front, point: FrontPoint) -> str:
    return point.name or f"number {front.points.index(point)}"


def _unbeaten(front: Front) -> Sequence[FrontPoint]:
    """What nothing beats in BitOps and the metric; nothing is known where the metric has no direction."""
    return () if front.measured.info.larger_is_better is None else front.pareto().points


def _marks(point: FrontPoint, best: Sequence[FrontPoint], picked: Policy | None) -> list[str]:
    marks = ["best"] if point in best else []
    return marks + (["picked"] if picked is not None and picked.layers == point.layers else [])


def front_plot(front: Front, path: Path, picked: Policy | None = None) -> Path:
    """The metric against BitOps and against weight bytes; a dotted line joins what nothing beats.

    Args:
        front: with costs, see `mixbit.policy.Front.check`.
        path: the HTML file; it holds the plotting library as well.
        picked: a policy of the front, to be marked with a star.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        from plotly.subplots import make_subplots
    except ImportError as cause:
        raise MissingExtra("The plot needs plotly: pip install 'mixbit[report]'.") from cause
    metric = front.measured.info
    figure = make_subplots(rows=1, cols=2, subplot_titles=[f"{metric.title} against {title}" for title, _ in _AXES])
    for column, (title, key) in enumerate(_AXES, start=1):
        figure.add_trace(_dots(front, front.points, title, key, picked), row=1, col=column)
        if metric.larger_is_better is not None:
            figure.add_trace(_line(front, key), row=1, col=column)
        figure.update_xaxes(title_text=title, row=1, col=column)
    figure.update_yaxes(title_text=metric.axis, row=1, col=1)
    figure.update_layout(template="plotly_white", title_text=f"Front of {front.method}, on {front.measured.on}")
    _io.write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


def _dots(front: Front, points: Sequence[FrontPoint], title: str, key: str, picked: Policy | None) -> Any:
    from plotly import graph_objects

    metric = front.measured.info
    taken = [picked is not None and picked.layers == point.layers for point in points]
    return graph_objects.Scatter(
        x=[point.costs[key] for point in points],
        y=[metric.scaled(point.quality[metric.name]) for point in points],
        text=[_name(front, point) for point in points],
        hovertemplate="%{text}<br>" + title + " %{x}<br>" + hover(metric),
        name=front.method,
        showlegend=False,
        mode="markers+text" if len(points) <= 12 else "markers",
        textposition="top center",
        marker={
            "size": [14 if one else 9 for one in taken],
            "symbol": ["star" if one else "circle" for one in taken],
            "color": "#1f77b4",
        },
    )


def _line(front: Front, key: str) -> Any:
    from plotly import graph_objects

    metric = front.measured.info
    best = front.pareto([key, metric.name]).points
    x, y = [point.costs[key] for point in best], [metric.scaled(point.quality[metric.name]) for point in best]
    line = {"color": "#888888", "dash": "dot"}
    return graph_objects.Scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip")
