"""What attacks came to: accuracies and success with intervals, distances and queries, transfer, signs of masking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import percent

if TYPE_CHECKING:
    from mixbit.attacks import Interval, Norm, Spread, TransferMatrix
    from mixbit.runs import Attacked, AttackResult

__all__ = ["attack_tables"]

_NORMS: tuple[Norm, ...] = ("L0", "L1", "L2", "Linf")
_SNAPPED: tuple[Norm, ...] = ("L2", "Linf")


def attack_tables(found: Attacked, of: str = "") -> list[Table]:
    """A table of accuracies, one of distances, one for the transfer of each attack, and what looks like masking.

    Args:
        found: what attacks came to.
        of: name of the run, where tables of several stand below each other.
    """
    tables = [_accuracies(found), _distances(found)]
    tables += [_transfer(name, matrix) for name, matrix in found.transfers.items() if len(matrix.targets) > 1]
    tables += _signs(found)
    return [replace(one, title=f"{one.title}: {of}") for one in tables] if of else tables


def _accuracies(found: Attacked) -> Table:
    rows = [
        (
            one.attack,
            one.target,
            one.source if one.source != one.target else "its own",
            _share(one.measures.clean_accuracy),
            *_interval(one.measures.robust_accuracy),
            *_interval(one.measures.success),
        )
        for one in found.results
    ]
    return Table(
        title="Accuracy under attack",
        columns=("attack", "network", "points", ">clean", ">robust", ">95 %", ">success", ">95 %"),
        rows=tuple(rows),
        notes=(
            f"{found.images} test images. robust: right before and after. success: of the images that the network has "
            "right, those whose point it has wrong.",
            *(
                f"{one.attack} on {one.target}: {', '.join(f'{count} by {part}' for part, count in one.by.items())}."
                for one in found.results
                if one.by
            ),
        ),
    )


def _share(one: Interval | None) -> str:
    return "-" if one is None else percent(one.value)


def _interval(one: Interval | None) -> tuple[str, str]:
    return _share(one), "-" if one is None else f"{100 * one.low:.2f} to {100 * one.high:.2f}"


def _distances(found: Attacked) -> Table:
    median = [f">{norm} median" for norm in _SNAPPED]
    return Table(
        title="How far, and how much was asked",
        columns=(
            "attack",
            "network",
            ">fooled",
            *(f">{norm}" for norm in _NORMS),
            *median,
            *(f">{norm} on the grid" for norm in _SNAPPED),
            ">to the boundary",
            ">queries",
            ">median",
        ),
        rows=tuple(map(_distance_row, found.results)),
        notes=(
            "Means over the images that were fooled, in the unit of the inputs. on the grid: after the network's own "
            "quantization of its input. to the boundary: of attacks that seek the nearest point.",
        ),
    )


def _distance_row(one: AttackResult) -> tuple[str, ...]:
    found = one.measures
    queries = ("-", "-") if found.queries is None else (f"{found.queries.mean:.4g}", f"{found.queries.median:.4g}")
    return (
        one.attack,
        one.target,
        f"{found.fooled}/{found.right}",
        *(_mean(found.distances.get(norm)) for norm in _NORMS),
        *("-" if norm not in found.distances else f"{found.distances[norm].median:.4g}" for norm in _SNAPPED),
        *(_mean(found.snapped.get(norm)) for norm in _SNAPPED),
        "-" if found.boundary is None else f"{found.boundary.value:.4g} {one.norm}",
        *queries,
    )


def _mean(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.mean:.4g}"


def _transfer(name: str, matrix: TransferMatrix) -> Table:
    rows = [
        (
            source,
            *(
                "-" if one is None else f"{100 * one.value:.1f} [{100 * one.low:.0f}, {100 * one.high:.0f}]"
                for one in row
            ),
        )
        for source, row in zip(matrix.sources, matrix.shares, strict=True)
    ]
    return Table(
        title=f"Transfer of {name}, in %",
        columns=("made on", *(f">on {target}" for target in matrix.targets)),
        rows=tuple(rows),
        notes=("Of the images that both networks have right, those whose point the second has wrong, with 95 %.",),
    )


def _cell(one: Interval | None) -> str:
    return "-" if one is None else f"{100 * one.value:.1f} [{100 * one.low:.0f}, {100 * one.high:.0f}]"


def _signs(found: Attacked) -> Iterator[Table]:
    rows = [
        (network, one.attack, percent(one.share), one.text) for network, signs in found.signs.items() for one in signs
    ]
    if rows:
        note = "A network that looks robust because an attack was led astray; no sign is no proof that none was."
        yield Table(
            title="Signs of masked gradients",
            columns=("network", "attack", ">of right images", "what was seen"),
            rows=tuple(rows),
            notes=(note,),
        )
