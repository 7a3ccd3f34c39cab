"""What certificates came to: certified accuracies with intervals, and their curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixbit import _io
from mixbit.errors import MissingExtra
from mixbit.report.table import Table
from mixbit.report.units import percent

if TYPE_CHECKING:
    from mixbit.certification import Certified
    from mixbit.runs import CertifiedRuns

__all__ = ["certificate_plot", "certificate_table"]

_POINTS = 121
"""Of a curve."""


def certificate_table(found: CertifiedRuns, of: str = "") -> Table:
    """A row a network: certified accuracy at each radius, average radius, abstention, and what it cost.

    Args:
        found: what certificates came to.
        of: name of the run, where tables of several stand below each other.
    """
    how = found.settings
    radii = how.shown_radii
    rows = [
        (
            name,
            _share(one, 0.0),
            *(_share(one, radius) for radius in radii),
            f"{one.average_radius.value:.3f} [{one.average_radius.low:.3f}, {one.average_radius.high:.3f}]",
            percent(one.abstention.value),
            f"{one.passes / len(one.certificates):.0f}",
        )
        for name, one in found.certified.items()
    ]
    shown = [f">at {radius:g}" for radius in radii]
    return Table(
        title=f"Certified accuracy in %, noise of sigma {how.sigma:g}{f': {of}' if of else ''}",
        columns=("network", ">smoothed", *shown, ">average radius", ">abstains", ">passes"),
        rows=tuple(rows),
        notes=(
            f"{len(next(iter(found.certified.values())).certificates)} test images; {how.n0} samples choose a class, "
            f"{'at most ' if how.early else ''}{how.n} estimate its chance; a certificate is wrong with a chance of "
            f"{how.alpha:g}. In brackets 95 % over images. Radii are in L2, in the unit of the inputs. smoothed: right "
            "without abstention. passes: inputs an image, on average.",
            "The average radius counts easy images most: look at the accuracies beside it.",
            *_passed_on(found),
        ),
    )


def _passed_on(found: CertifiedRuns) -> tuple[str, ...]:
    """Where certificates begin with those of an anchor."""
    how = found.settings
    if how.shown is None:
        return ()
    way = {"both": "the better of two bounds", "irs": "the bound as published"}[how.mode]
    _, *others = found.certified.values()  # float is first
    made, whole = sum(one.passes for one in others), sum(len(one.certificates) for one in others) * (how.n0 + how.n)
    saved = f" Theirs took {made} passes in place of {whole}: {percent(1 - made / whole)} saved." if others else ""
    return (f"Float has all {how.n} samples; the others are shown {how.shown} of them, and have {way}.{saved}",)


def _share(found: Certified, radius: float) -> str:
    one = found.accuracy(radius)
    return f"{100 * one.value:.1f} [{100 * one.low:.0f}, {100 * one.high:.0f}]"


def certificate_plot(found: CertifiedRuns, path: Path) -> Path:
    """Certified accuracy of every network over the radius, in one HTML file that needs no network.

    Args:
        found: what certificates came to.
        path: the HTML file; it holds the plotting library as well.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as cause:
        raise MissingExtra("The plot needs plotly: pip install 'mixbit[report]'.") from cause
    figure = graph_objects.Figure()
    largest = max(float(one.radii.max()) for one in found.certified.values())
    for name, one in found.certified.items():
        figure.add_trace(_curve(name, one, max(largest, found.settings.sigma)))
    figure.update_xaxes(title_text="radius in L2, unit of the inputs")
    figure.update_yaxes(title_text="certified accuracy in %", range=[0, 100])
    title = f"Certified accuracy, noise of sigma {found.settings.sigma:g}, with intervals of 95 %"
    figure.update_layout(template="plotly_white", title_text=title)
    _io.write_text(path, figure.to_html(include_plotlyjs=True))
    return path


def _curve(name: str, found: Certified, largest: float) -> Any:
    from plotly import graph_objects

    radii = np.linspace(0, largest, _POINTS)
    points = [found.accuracy(float(radius)) for radius in radii]
    return graph_objects.Scatter(
        x=radii.tolist(),
        y=[100 * one.value for one in points],
        customdata=[[100 * one.low, 100 * one.high] for one in points],
        hovertemplate="radius %{x:.3g}: %{y:.1f} % [%{customdata[0]:.1f}, %{customdata[1]:.1f}]",
        error_y={
            "type": "data",
            "array": [100 * (one.high - one.value) if at % 20 == 0 else 0 for at, one in enumerate(points)],
            "arrayminus": [100 * (one.value - one.low) if at % 20 == 0 else 0 for at, one in enumerate(points)],
            "thickness": 1,
        },
        name=name,
        mode="lines",
        line={"shape": "hv"},
    )
