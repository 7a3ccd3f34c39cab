"""A latency table for people: what each layer takes, what fewer bits bring, and how well the sums predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mixbit.report.table import Table
from mixbit.report.units import count, duration

if TYPE_CHECKING:
    from mixbit.cost import LatencyTable, LatencyUnit, Timing

__all__ = ["latency_checks_table", "latency_table"]


def latency_table(table: LatencyTable) -> Table:
    """Every layer at the first and the last option, and its fastest; then all that is no layer, and the sums.

    The notes say what was measured where, and what fewer bits bring.
    """
    first, last = _ends(table)
    rows = [(name, *_row(table.unit, found.options, first, last)) for name, found in table.layers.items()]
    rest = amount(table.unit, table.rest)
    rows.append(("all that is no layer", rest, rest, rest, ""))
    rows.append(("sum", *_sums(table, first, last), ""))
    columns = ("layer", f">{first}", f">{last}", ">fastest", "at")
    return Table(title=f"Latency with {table.target}", columns=columns, rows=tuple(rows), notes=tuple(_notes(table)))


def latency_checks_table(table: LatencyTable) -> Table:
    """Whole networks that the table was not made from: measured, and as the table predicts them."""
    rows = tuple(
        (
            one.name,
            amount(table.unit, one.measured),
            amount(table.unit, one.spread),
            amount(table.unit, one.predicted),
            f"{one.error_percent:+.1f} %",
        )
        for one in table.checks
    )
    columns = ("policy", ">measured", ">spread", ">predicted", ">error")
    note = "Spread: interquartile range of the measurement."
    return Table(title="Predicted against measured", columns=columns, rows=rows, notes=(note,))


def amount(unit: LatencyUnit, value: float) -> str:
    """A value of a table in its unit.

    >>> amount("ns", 330_100), amount("instructions", 12_400_000)
    ('330.1 us', '12.40 M')
    """
    return duration(value) if unit == "ns" else count(value)


def _ends(table: LatencyTable) -> tuple[str, str]:
    """The first and the last option."""
    options = list(next(iter(table.layers.values())).options)
    return options[0], options[-1]


def _row(unit: LatencyUnit, options: dict[str, Timing], first: str, last: str) -> tuple[str, ...]:
    fastest = min(options, key=lambda text: options[text].median)
    same = sum(found.median == options[fastest].median for found in options.values())
    where = fastest if same == 1 else f"{fastest} and {same - 1} more"
    shown = (options.get(text) for text in (first, last, fastest))
    return *("-" if one is None else amount(unit, one.median) for one in shown), where


def _sums(table: LatencyTable, first: str, last: str) -> tuple[str, ...]:
    """Of the whole network: uniform at the first and at the last option, and every layer at its fastest."""
    layers = [found.options for found in table.layers.values()]
    totals = [
        sum(options[text].median for options in layers) if all(text in options for options in layers) else None
        for text in (first, last)
    ]
    totals.append(sum(min(one.median for one in options.values()) for options in layers))
    return tuple("-" if one is None else amount(table.unit, one + table.rest) for one in totals)


def _notes(table: LatencyTable) -> list[str]:
    device, found = table.device, [f"{note[0].upper()}{note[1:]}." for note in table.notes if note]
    if table.float32 is not None:
        found.insert(0, f"The float32 network takes {amount(table.unit, table.float32.median)}.")
    where = f"{table.runtime} {table.runtime_version} on {device.cpu}, {table.threads} of {device.cores} cores"
    files = f", files for --cpu {table.cpu}" if table.cpu else ""
    return [f"{where}, batch {table.batch}, {table.repeats} repeats{files}.", *found]
