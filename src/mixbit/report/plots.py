"""Plots of a comparison, as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbit import _io
from mixbit._pareto import non_dominated
from mixbit.errors import MissingExtra
from mixbit.report.units import hover

if TYPE_CHECKING:
    from mixbit.metric import MetricInfo
    from mixbit.runs import Comparison, PolicyResult

__all__ = ["pareto_front", "pareto_plot"]

# Column, title of the axis, attribute of Costs.
_AXES = ((1, "BitOps", "bitops"), (2, "weight bytes", "weight_bytes"))


def pareto_front(points: Sequence[tuple[float, float]], *, larger_is_better: bool = True) -> list[tuple[float, float]]:
    """The points that no other point beats in both cost and metric, by rising cost.

    Args:
        points: (cost, metric); less cost is better.
        larger_is_better: of the metric.

    >>> pareto_front([(3, 0.9), (1, 0.5), (2, 0.4), (3, 0.8)])
    [(1, 0.5), (3, 0.9)]
    >>> pareto_front([(3, 0.9), (1, 0.5), (2, 0.4), (3, 0.8)], larger_is_better=False)
    [(1, 0.5), (2, 0.4)]
    """
    sign = -1 if larger_is_better else 1
    return sorted(points[at] for at in non_dominated([(cost, sign * value) for cost, value in points]))


def pareto_plot(found: Comparison, path: Path) -> Path:
    """The metric against BitOps and against weight bytes: one colour a method, bars of one standard deviation.

    It is that after fine-tuning, or after calibration where there was none, or where a supernet alone judged, in that.
    A dotted line joins what nothing else beats; a dashed one is the float network.

    Args:
        found: a comparison, finished or not.
        path: the HTML file; it holds the plotting library as well.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        from plotly.colors import qualitative
        from plotly.subplots import make_subplots
    except ImportError as cause:
        raise MissingExtra("The plot needs plotly: pip install 'mixbit[report]'.") from cause
    metric = found.metric
    figure = make_subplots(rows=1, cols=2, subplot_titles=[f"{metric.title} against {title}" for _, title, _ in _AXES])
    results = [one for budget in found.budgets for one in found.results(budget) if one.accuracy is not None]
    for number, name in enumerate(sorted({one.name for one in results})):
        mine = [one for one in results if one.name == name]
        colour = qualitative.Dark24[number % len(qualitative.Dark24)]
        for column, title, key in _AXES:
            figure.add_trace(_dots(mine, key, title, colour, metric, legend=column == 1), row=1, col=column)
    for column, title, key in _AXES:
        if metric.larger_is_better is not None:  # without a direction nothing beats anything
            figure.add_trace(_front(results, key, metric), row=1, col=column)
        figure.update_xaxes(title_text=title, row=1, col=column)
    figure.add_hline(
        y=metric.scaled(found.float32.accuracy), line_dash="dash", line_color="#888888", annotation_text="float32"
    )
    figure.update_yaxes(title_text=metric.axis, row=1, col=1)
    figure.update_layout(
        template="plotly_white", title_text="Search methods at equal budgets", legend_title_text="method"
    )
    _io.write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


def _dots(mine: Sequence[PolicyResult], key: str, title: str, colour: str, metric: MetricInfo, *, legend: bool) -> Any:
    from plotly import graph_objects

    return graph_objects.Scatter(
        x=[getattr(one.costs, key) for one in mine],
        y=[metric.scaled(one.accuracy or 0.0) for one in mine],
        error_y={"type": "data", "array": [metric.scaled(one.spread or 0.0) for one in mine]},
        text=[f"within {one.budget}, {_behind(one)}" for one in mine],
        hovertemplate="%{text}<br>" + title + " %{x}<br>" + hover(metric),
        name=mine[0].name,
        legendgroup=mine[0].name,
        showlegend=legend,
        mode="markers",
        marker={"color": colour, "size": 10, "symbol": "diamond" if mine[0].outside else "circle"},
    )


def _behind(one: PolicyResult) -> str:
    """What a point stands for: seeds, or the judgement of a supernet."""
    seeds = len(one.tuned or one.calibrated)
    return f"{seeds} seeds" if seeds else "judged in a supernet"


def _front(results: Sequence[PolicyResult], key: str, metric: MetricInfo) -> Any:
    from plotly import graph_objects

    points = [(getattr(one.costs, key), metric.scaled(one.accuracy or 0.0)) for one in results]
    front = pareto_front(points, larger_is_better=bool(metric.larger_is_better))
    x, y = [cost for cost, _ in front], [value for _, value in front]
    line = {"color": "#888888", "dash": "dot"}
    return graph_objects.Scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip")
