"""Search methods side by side: one table a budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mixbit.metric import ACCURACY, MetricInfo
from mixbit.report.table import Table
from mixbit.report.units import count, seconds, size

if TYPE_CHECKING:
    from mixbit.runs import Comparison, Effort, Judged, PolicyResult, Row

__all__ = ["comparison_line", "comparison_table", "comparison_tables"]

_TUNED = (">fine-tuned", ">seeds", ">calibrated")
_JUDGED = (">rank", ">judged loss", ">judged")
_COSTS = (">BitOps", ">weight bytes", ">slack")
_EFFORT = (">search CPU", ">images", ">forward", ">backward")


def comparison_tables(found: Comparison) -> list[Table]:
    """One table for every budget of a comparison, finished or not."""
    return [comparison_table(found, budget) for budget in found.budgets]


def comparison_line(row: Row) -> str:
    """One row as a line of a log, while a comparison runs."""
    if row.reason:
        return f"{row.budget}  {row.name}  seed {row.seed}: {row.reason}"
    known = {"judged": row.judged.value if row.judged else None, "calibrated": row.calibrated, "fine-tuned": row.tuned}
    texts = [f"{key} {row.metric.text(value)}" for key, value in known.items() if value is not None]
    found = ", ".join([f"judged loss {row.judged.loss:.4g}", *texts] if row.judged else texts)
    return f"{row.budget}  {row.name}  seed {row.seed}: {found}"


def comparison_table(found: Comparison, budget: str) -> Table:
    """The rows of one budget, the best first, under the float network.

    Values of the metric are means over the seeds, with the sample standard deviation where there are several. The
    effort of a search is that of one search, whatever the number of budgets: training images read, and images passed
    through the whole network in each direction, where a pass through a part counts as that part.

    Where a supernet judges, its loss, the metric in it and the rank by that loss have columns of their own; those of
    calibration and fine-tuning are left out where there was neither.
    """
    results, judge, start = found.results(budget), found.judge, found.float32
    trained = judge is None or found.settings is not None
    info = found.metric
    head = [
        "float32",
        *(("", "", info.text(start.accuracy)) if trained else ()),
        *(("", *_judged(judge.float32, info)) if judge else ()),
        count(start.costs.bitops),
        size(start.costs.weight_bytes),
    ]
    columns = ("method", *(_TUNED if trained else ()), *(_JUDGED if judge else ()), *_COSTS, *_EFFORT)
    rows = (
        (*head, *[""] * (len(columns) - len(head))),
        *(_row(one, info, trained=trained, judged=judge is not None) for one in results),
    )
    return Table(title=f"Within {budget}", columns=columns, rows=rows, notes=tuple(_notes(found, results)))


def _row(one: PolicyResult, metric: MetricInfo, *, trained: bool, judged: bool) -> tuple[str, ...]:
    costs = ("-", "-", "-")
    if one.costs is not None:
        costs = (count(one.costs.bitops), size(one.costs.weight_bytes), _slack(one.slack))
    return (
        one.name + (" (policy file)" if one.outside else ""),
        *(_tuned(one, metric) if trained else ()),
        *(("-" if one.rank is None else str(one.rank), *_judged(one.judged, metric)) if judged else ()),
        *costs,
        *_effort(one.effort),
    )


def _tuned(one: PolicyResult, metric: MetricInfo) -> tuple[str, str, str]:
    calibrated = list(one.calibrated.values())
    return (
        _mean(one, metric) if one.tuned else "-",
        str(len(calibrated)) if calibrated else "-",
        metric.text(sum(calibrated) / len(calibrated)) if calibrated else "-",
    )


def _judged(found: Judged | None, metric: MetricInfo) -> tuple[str, str]:
    return ("-", "-") if found is None else (f"{found.loss:.4g}", metric.text(found.value))


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
    judged_alone = found.judge is not None and found.settings is None
    if found.metric != ACCURACY.info:
        what = "judged" if judged_alone else "fine-tuned, calibrated"
        yield f"{what}: {found.metric.name}{_better(found.metric)}."
    if found.judge is not None:
        yield (
            f"judged: in a trained supernet ({found.judge.weights}), on {found.judge.on}; rank by the loss. Its "
            "training is in no effort."
        )
    yield ("" if judged_alone else "±: sample standard deviation over the seeds. ") + (
        "images: of training, read by the search."
    )
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
