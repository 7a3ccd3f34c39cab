"""Attacks as pictures, in one HTML file that needs no network: accuracy against radius, transfer, images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbit import _io
from mixbit.errors import MissingExtra

if TYPE_CHECKING:
    from torch import Tensor

    from mixbit.runs import Attacked, AttackResult, Picture

__all__ = ["attack_plot"]


def attack_plot(found: Attacked, path: Path) -> Path:
    """Curves of accuracy over the radius, a heat map of each attack's transfer, and a few adversarial images.

    Args:
        found: what attacks came to.
        path: the HTML file; it holds the plotting library as well.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        import plotly  # noqa: F401
    except ImportError as cause:
        raise MissingExtra("The plot needs plotly: pip install 'mixbit[report]'.") from cause
    figures = [*_curves(found), *_heat_maps(found), *_pictures(found.pictures)]
    parts = [one.to_html(full_html=False, include_plotlyjs=at == 0) for at, one in enumerate(figures)]
    head = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Attacks</title></head><body>\n'
    _io.write_text(path, head + "\n".join(parts) + "\n</body></html>\n")
    return path


def _curves(found: Attacked) -> Iterator[Any]:
    """A panel an attack within a ball, a line a network, from its clean accuracy at radius 0."""
    from plotly.colors import qualitative
    from plotly.subplots import make_subplots

    within = [one for one in found.results if one.radius is not None]
    families = list(dict.fromkeys((one.family, one.norm) for one in within))
    if not families:
        return
    titles = [f"{family} in {norm}" for family, norm in families]
    figure = make_subplots(rows=1, cols=len(families), shared_yaxes=True, subplot_titles=titles)
    for at, network in enumerate(found.networks):
        colour = qualitative.Dark24[at % len(qualitative.Dark24)]
        for column, family in enumerate(families, 1):
            mine = [one for one in within if (one.family, one.norm) == family and one.target == network]
            figure.add_trace(_curve(network, mine, colour, legend=column == 1), row=1, col=column)
    figure.update_xaxes(title_text="radius")
    figure.update_yaxes(title_text="robust accuracy in %", col=1)
    figure.update_layout(template="plotly_white", title_text="Accuracy under attack, with intervals of 95 %")
    yield figure


def _curve(network: str, mine: Sequence[AttackResult], colour: str, *, legend: bool) -> Any:
    from plotly import graph_objects

    placed = sorted(mine, key=lambda one: one.radius or 0.0)
    points = [(0.0, one.measures.clean_accuracy) for one in placed[:1]]
    points += [(one.radius or 0.0, one.measures.robust_accuracy) for one in placed]
    return graph_objects.Scatter(
        x=[radius for radius, _ in points],
        y=[100 * one.value for _, one in points],
        error_y={
            "type": "data",
            "array": [100 * (one.high - one.value) for _, one in points],
            "arrayminus": [100 * (one.value - one.low) for _, one in points],
            "thickness": 1,
        },
        text=["clean", *(f"points of {one.source}" for one in placed)][: len(points)],
        hovertemplate="%{text}<br>radius %{x}: %{y:.2f} %",
        name=network,
        legendgroup=network,
        showlegend=legend,
        mode="lines+markers",
        line={"color": colour},
    )


def _heat_maps(found: Attacked) -> Iterator[Any]:
    """One for each attack: sources down, targets across."""
    from plotly import graph_objects

    for name, matrix in found.transfers.items():
        if len(matrix.targets) < 2:
            continue
        shares = [[None if one is None else 100 * one.value for one in row] for row in matrix.shares]
        map_ = graph_objects.Heatmap(
            x=list(matrix.targets),
            y=list(matrix.sources),
            z=shares,
            zmin=0,
            zmax=100,
            colorscale="Viridis",
            texttemplate="%{z:.0f}",
            hovertemplate="made on %{y}, on %{x}: %{z:.1f} %<extra></extra>",
        )
        figure = graph_objects.Figure(map_)
        figure.update_yaxes(autorange="reversed", title_text="made on")
        figure.update_xaxes(title_text="tried on")
        figure.update_layout(template="plotly_white", title_text=f"Transfer of {name}, in %")
        yield figure


def _pictures(pictures: Sequence[Picture]) -> Iterator[Any]:
    """A row each: the image, the point, and the difference between them, as strong as it can be shown."""
    from plotly.subplots import make_subplots

    if not pictures:
        return
    titles = [title for one in pictures for title in _titles(one)]
    figure = make_subplots(rows=len(pictures), cols=3, subplot_titles=titles, vertical_spacing=0.3 / len(pictures))
    for row, one in enumerate(pictures, 1):
        low, high = min(0.0, *_ends(one)), max(1.0, *_ends(one))
        difference = one.point - one.image
        strongest = max(float(difference.abs().max()), 1e-12)
        shown = ((one.image - low) / (high - low), (one.point - low) / (high - low), 0.5 + difference / (2 * strongest))
        for column, pixels in enumerate(shown, 1):
            figure.add_trace(_pixels(pixels), row=row, col=column)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    figure.update_layout(template="plotly_white", height=260 * len(pictures), title_text="Points that fooled a network")
    yield figure


def _ends(one: Picture) -> list[float]:
    return [float(value) for image in (one.image, one.point) for value in (image.min(), image.max())]


def _titles(one: Picture) -> tuple[str, str, str]:
    strongest = float((one.point - one.image).abs().max())
    return f"class {one.label}", f"{one.attack}: {one.target} says {one.called}", f"difference, up to {strongest:.3g}"


def _pixels(pixels: Tensor) -> Any:
    """An image of values 0 to 1 `(C, H, W)`: in colour with three channels, else the first channel in grey."""
    from plotly import graph_objects

    whole = (255 * pixels.clamp(0, 1)).round().int()
    if len(whole) == 3:
        return graph_objects.Image(z=whole.permute(1, 2, 0).tolist(), hoverinfo="skip")
    return graph_objects.Heatmap(
        z=whole[0].tolist(), zmin=0, zmax=255, colorscale="Greys", reversescale=True, showscale=False, hoverinfo="skip"
    )
