"""The metric under shifted quantizers as curves, in one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbit import _io
from mixbit.errors import MissingExtra
from mixbit.report.units import hover

if TYPE_CHECKING:
    from mixbit.robustness.quantizer_shift import ShiftPoint, ShiftSweep

__all__ = ["shift_plot"]

_SMALLER, _LARGER, _BITS = "smaller steps", "larger steps", "weight bits"
_FLOAT_AT = 9.5  # beyond 8 bits


def shift_plot(steps: Mapping[str, ShiftSweep], path: Path, *, bits: Mapping[str, ShiftSweep] | None = None) -> Path:
    """The metric over steps below the trained one, over steps above it, and over weight bits: one line a model.

    The two sides of 1 have a panel each, since what helps on one side may harm on the other; both have logarithmic axes
    and start at 1. A star marks the point of training.

    Args:
        steps: name of the model -> `step_sweep`.
        path: the HTML file; it holds the plotting library as well.
        bits: name of the model -> `qat_bit_sweep` or `ptq_bit_sweep`; None leaves that panel out.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        from plotly.colors import qualitative
        from plotly.subplots import make_subplots
    except ImportError as cause:
        raise MissingExtra("The plot needs plotly: pip install 'mixbit[report]'.") from cause
    metric = next(iter([*steps.values(), *(bits or {}).values()])).metric
    panels = [_SMALLER, _LARGER, *([_BITS] if bits else [])]
    figure = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=panels, horizontal_spacing=0.03)
    names = list(dict.fromkeys([*steps, *(bits or {})]))
    for name in names:
        colour = qualitative.Dark24[names.index(name) % len(qualitative.Dark24)]
        for column, points, reference in _lines(name, steps, bits or {}):
            figure.add_trace(
                _line(name, points, colour, hover(metric), legend=column == _first(name, steps)), row=1, col=column
            )
            figure.add_trace(_star(name, reference, colour, hover(metric)), row=1, col=column)
    for column in (1, 2):
        figure.update_xaxes(title_text="step / trained step", type="log", row=1, col=column, **_ticks(steps, column))
    if bits:
        figure.update_xaxes(title_text=_BITS, row=1, col=3, **_bit_ticks(bits))
    figure.update_yaxes(title_text=metric.axis, row=1, col=1)
    figure.update_layout(template="plotly_white", title_text="Other quantizers than the trained ones")
    _io.write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


Line = tuple[int, list[tuple[float, float, str]], tuple[float, float] | None]
"""Column, `(x, the metric in its unit, label)`, and where the star is."""


def _lines(name: str, steps: Mapping[str, ShiftSweep], bits: Mapping[str, ShiftSweep]) -> list[Line]:
    found: list[Line] = []
    if name in steps:
        sweep = steps[name]
        placed = sorted((p for p in sweep.points if p.value is not None), key=lambda p: p.value or 0.0)
        star = _at(sweep.reference)
        found.append((1, _curve([p for p in placed if p.value is not None and p.value <= 1]), star))
        found.append((2, _curve([p for p in placed if p.value is not None and p.value >= 1]), star))
    if name in bits:
        sweep = bits[name]
        points = sorted(sweep.points, key=lambda p: _FLOAT_AT if p.value is None else p.value)
        found.append((3, _curve(points), _at(sweep.reference)))
    return found


def _curve(points: Sequence[ShiftPoint]) -> list[tuple[float, float, str]]:
    return [(_FLOAT_AT if p.value is None else p.value, p.metric.scaled(p.accuracy), p.label) for p in points]


def _at(reference: ShiftPoint) -> tuple[float, float] | None:
    """Where the star is; the float model behind post-training quantization was not trained at any bits."""
    return None if reference.value is None else (reference.value, reference.metric.scaled(reference.accuracy))


def _first(name: str, steps: Mapping[str, ShiftSweep]) -> int:
    """The column whose line stands in the legend for all of that model."""
    return 1 if name in steps else 3


def _line(name: str, points: Sequence[tuple[float, float, str]], colour: str, shown: str, *, legend: bool) -> Any:
    from plotly import graph_objects

    return graph_objects.Scatter(
        x=[x for x, _, _ in points],
        y=[y for _, y, _ in points],
        text=[label for _, _, label in points],
        hovertemplate=f"%{{text}}: {shown}",
        name=name,
        legendgroup=name,
        showlegend=legend,
        mode="lines+markers",
        line={"color": colour},
        marker={"size": 6},
    )


def _star(name: str, at: tuple[float, float] | None, colour: str, shown: str) -> Any:
    from plotly import graph_objects

    return graph_objects.Scatter(
        x=[] if at is None else [at[0]],
        y=[] if at is None else [at[1]],
        hovertemplate=f"as trained: {shown}",
        name=name,
        legendgroup=name,
        showlegend=False,
        mode="markers",
        marker={"color": colour, "size": 14, "symbol": "star"},
    )


def _ticks(steps: Mapping[str, ShiftSweep], column: int) -> dict[str, Any]:
    """The factors themselves as ticks, but for those too near to 1 to be told apart."""
    values = {p.value for sweep in steps.values() for p in sweep.points if p.value is not None}
    mine = sorted(x for x in values if (x <= 1 if column == 1 else x >= 1) and (x == 1 or abs(x - 1) > 0.04))
    return {"tickvals": mine, "ticktext": [f"{x:g}" for x in mine]}


def _bit_ticks(bits: Mapping[str, ShiftSweep]) -> dict[str, Any]:
    values = sorted({p.value for sweep in bits.values() for p in sweep.points if p.value is not None})
    return {"tickvals": [*values, _FLOAT_AT], "ticktext": [*(f"{x:g}" for x in values), "float"]}
