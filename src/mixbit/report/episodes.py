"""Searches by episodes: how the reward rose, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixbit import _io
from mixbit.errors import MissingExtra
from mixbit.report.table import Table
from mixbit.report.units import count, percent

if TYPE_CHECKING:
    from mixbit.methods import EpisodeRecord

__all__ = ["episodes_plot", "episodes_table"]

_ROWS = 8


def episodes_table(found: Sequence[EpisodeRecord]) -> Table:
    """Rows of some episodes each: their noise, rewards, the best so far, and policies that were new.

    Args:
        found: in their order, at least one.
    """
    best = list(accumulate((one.reward for one in found), max))
    chance = sum(one.delta is None for one in found)
    parts = [range(chance)] if chance else []
    size = max(1, -(-(len(found) - chance) // _ROWS))
    parts += [range(first, min(first + size, len(found))) for first in range(chance, len(found), size)]
    rows = tuple(_row(part, [found[at] for at in part], best[part[-1]]) for part in parts)
    whole, own = sum(one.seconds for one in found), sum(one.agent_seconds for one in found)
    first = best.index(best[-1])
    return Table(
        title="Episodes",
        columns=("episodes", ">noise", ">mean reward", ">best so far", ">new policies"),
        rows=rows,
        notes=(
            f"The best is that of episode {found[first].number}. The agent itself took {percent(own / whole)} of the "
            f"time, {own / len(found):.3f} s of {whole / len(found):.3f} s an episode.",
        ),
    )


def _row(part: range, mine: Sequence[EpisodeRecord], best: float) -> tuple[str, ...]:
    noise = "random" if mine[0].delta is None else f"{mine[0].delta:.3f}"
    mean = sum(one.reward for one in mine) / len(mine)
    return f"{part[0]} to {part[-1]}", noise, f"{mean:.4f}", f"{best:.4f}", str(sum(one.new for one in mine))


def episodes_plot(found: Sequence[EpisodeRecord], path: Path, method: str) -> Path:
    """The reward of every episode, a step line for the best so far, and where actions were drawn evenly.

    Args:
        found: in their order, at least one.
        path: the HTML file; it holds the plotting library as well.
        method: for the title.

    Raises:
        MissingExtra: plotly is not installed.
    """
    try:
        from plotly import graph_objects
    except ImportError as cause:
        raise MissingExtra("The plot needs plotly: pip install 'mixbit[report]'.") from cause
    numbers = [one.number for one in found]
    figure = graph_objects.Figure()
    for name, symbol, mine in (
        ("measured", "circle", [one for one in found if one.new]),
        ("known bits", "circle-open", [one for one in found if not one.new]),
    ):
        figure.add_trace(_dots(name, symbol, mine))
    best = list(accumulate((one.reward for one in found), max))
    figure.add_trace(
        graph_objects.Scatter(x=numbers, y=best, mode="lines", line_shape="hv", name="best so far", hoverinfo="skip")
    )
    chance = sum(one.delta is None for one in found)
    if chance:
        figure.add_vrect(x0=-0.5, x1=chance - 0.5, fillcolor="#888888", opacity=0.12, annotation_text="random")
    figure.update_xaxes(title_text="episode")
    figure.update_yaxes(title_text="reward")
    figure.update_layout(template="plotly_white", title_text=f"Episodes of {method}")
    _io.write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


def _dots(name: str, symbol: str, mine: Sequence[EpisodeRecord]) -> Any:
    from plotly import graph_objects

    return graph_objects.Scatter(
        x=[one.number for one in mine],
        y=[one.reward for one in mine],
        text=[_words(one) for one in mine],
        hovertemplate="episode %{x}: %{y:.4f}<br>%{text}",
        mode="markers",
        marker={"size": 7, "symbol": symbol},
        name=name,
    )


def _words(one: EpisodeRecord) -> str:
    """What hovers over an episode: measurements, BitOps and bits, a few layers a line."""
    quality = ", ".join(f"{name} {value:.4g}" for name, value in one.quality.items())
    bits = one.bits.split()
    lines = [" ".join(bits[first : first + 8]) for first in range(0, len(bits), 8)]
    return "<br>".join([quality, f"{count(int(one.costs['bitops']))} BitOps", *lines])
