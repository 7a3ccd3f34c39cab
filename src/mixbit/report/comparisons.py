"""Search methods side by side: one table a budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mixbit.metric import ACCURACY, MetricInfo
from mixbit.report.table import Table
from mixbit.report.units import count, seconds, size

if TYPE_CHECKING:
    from mixbit.runs import Comparison, Effort, PolicyResult, Row

__all__ = ["comparison_line", "comparison_table", "comparison_tables"]

_COLUMNS = (
    "method",
    ">fine-tuned",
    ">seeds",
    ">calibrated",
    ">BitOps",
    ">weight bytes",
    ">slack",
    ">search CPU",
    ">images",
    ">forward",
    ">backward",
)


def comparison_tables(found: Comparison) -> list[Table]:
    """One table for every budget of a comparison, finished or not."""
    return [comparison_table(found, budget) for budget in found.budgets]


def comparison_line(row: Row) -> str:
    """One row as a line of a log, while a comparison runs."""
    if row.reason:
        return f"{row.budget}  {row.name}  seed {row.seed}: {row.reason}"
    known = {"calibrated": row.calibrated, "fine-tuned": row.tuned}
    found = ", ".join(f"{key} {row.metric.text(value)}" for key, value in known.items() if value is not None)
    return f"{row.budget}  {row.name}  seed {row.seed}: {found}"


def comparison_table(found: Comparison, budget: str) -> Table:
    """The rows of one budget, the best first, under the float network.

    Values of the metric are means over the seeds, with the sample standard deviation where there are several. The
    effort of a search is that of one search, whatever the number of budgets: training images read, and images passed
    through the whole network in each direction, where a pass through a part counts as that part.
    """
    results = found.results(budget)
    start = found.float32
    head = (
        "float32",
        "",
        "",
        found.metric.text(start.accuracy),
        count(start.costs.bitops),
        size(start.costs.weight_bytes),
    )
    rows = [(*head, *[""] * 5), *(_row(one, found.metric) for one in results)]
    return Table(title=f"Within {budget}", columns=_COLUMNS, rows=tuple(rows), notes=tuple(_notes(found, results)))


def _row(one: PolicyResult, metric: MetricInfo) -> tuple[str, ...]:
    if one.costs is None:
        costs = ("-", "-", "-")
    else:
        costs = (count(one.costs.bitops), size(one.costs.weight_bytes), _slack(one.slack))
    calibrated = list(one.calibrated.values())
    return (
        one.name + (" (policy file)" if one.outside else ""),
        _mean(one, metric) if one.tuned else "-",
        str(len(one.calibrated)) if one.calibrated else "-",
        metric.text(sum(calibrated) / len(calibrated)) if calibrated else "-",
        *costs,
        *_effort(one.effort),
    )


def _mean(one: PolicyResult, metric: MetricInfo) -> str:
    """With its spread before the unit.

    >>> from types import SimpleNamespace
    >>> _mean(SimpleNamespace(accuracy=0.9123, spread=0.004), ACCURACY.info)
    '91.23 ± 0.40 %'
    """
    if one.spread is None:
        return metric.text(one.accuracy or 0.0)
    form = ".2f" if metric.unit == "%" else ".4g"
    value, spread = (format(metric.scaled(number), form) for number in (one.accuracy or 0.0, one.spread))
    return f"{value} ± {spread} {metric.unit}".rstrip()


def _slack(slack: dict[str, float]) -> str:
    return ", ".join(count(left) if kind == "bitops" else size(left) for kind, left in slack.items())


def _effort(effort: Effort | None) -> tuple[str, ...]:
    if effort is None:
        return ("-",) * 4
    time = "-" if effort.cpu_seconds is None else seconds(effort.cpu_seconds)
    numbers = (effort.images, effort.forward_images, effort.backward_images)
    return time, *("-" if value is None else count(round(value)) for value in numbers)


def _notes(found: Comparison, results: tuple[PolicyResult, ...]) -> Iterator[str]:
    if found.metric != ACCURACY.info:
        yield f"fine-tuned, calibrated: {found.metric.name}{_better(found.metric)}."
    yield "±: sample standard deviation over the seeds. images: of training, read by the search."
    yield "forward, backward: images through the whole network; a pass through a part counts as that part."
    told: set[str] = set()
    for one in results:
        if one.twins and one.name not in told:
            told |= {one.name, *one.twins}
            yield f"Same bits, one result: {', '.join(sorted((one.name, *one.twins)))}."
    cut = [one.name for one in results if found.was_interrupted(one.name, one.budget)]
    if cut:
        yield f"Killed and continued, so the effort is that of the last part alone: {', '.join(cut)}."
    for one in results:
        if one.reason:
            yield f"{one.name}: {one.reason}"


def _better(metric: MetricInfo) -> str:
    return {True: ", more is better", False: ", less is better", None: ", of which it is not known what is better"}[
        metric.larger_is_better
    ]
