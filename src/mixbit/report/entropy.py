"""The table of a topological-entropy search: each layer's entropy beside that of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from mixbit.report.table import Table
from mixbit.report.units import count, percent, size

if TYPE_CHECKING:
    from mixbit.policy import Scores

__all__ = ["entropy_table"]


def entropy_table(scores: Scores) -> Table | None:
    """Topological entropy of every measured layer, and the control; None for scores of another method.

    The column "noise" is what maps of the same size without any content give, and "rest" is what the layer has beyond
    it. Below stand the rank correlations of the entropies with the noise and with the size of the maps, and the layers
    that were not measured, with the reason.
    """
    if "topological_entropy" not in scores.settings:
        return None
    found = cast(Mapping[str, Any], scores.settings["topological_entropy"])
    columns = ("layer", ">map", ">channels", ">births", ">entropy", ">noise", ">rest", "read at")
    rows = tuple(_row(one) for one in found["layers"])
    return Table(title="Topological entropy", columns=columns, rows=rows, notes=tuple(_notes(found, scores.settings)))


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    entropies = (f"{one[key]:.3f}" for key in ("te", "null", "normalised"))
    return (
        one["layer"],
        "x".join(map(str, one.get("shape", (one["size"], one["size"])))),
        str(one["channels"]),
        percent(one["births"]),
        *entropies,
        one["tensor"],
    )


def _notes(found: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{settings['images']} images of label {found['label']}, {count(found['maps'])} maps; "
        f"at most {size(found['map_bytes_peak'])} of maps at a time."
    )
    if settings.get("graph") == "grid":
        yield "Vertices are the pixels of a map (graph='grid'), not its rows and columns."
    noise, sides = found["spearman_with_noise"], found["spearman_with_size"]
    if noise is not None and sides is not None:
        yield (
            f"Rank correlation with noise of the same sizes: {noise:.2f}, with the size of the maps: {sides:.2f}. "
            "Near 1, the entropies say little beyond the sizes; compare with mixbit search map-size."
        )
    if found["below_noise"]:
        yield f"Below noise: {', '.join(found['below_noise'])}."
    if found["graph"] != "exported":
        yield f"Read at the layers' own outputs: {found['graph']}."
    yield from (f"Not measured: {one}." for one in found["fallback"])
