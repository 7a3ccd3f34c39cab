"""What a comparison has reached so far: a ledger of all that was measured, and the table of whatever is there."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mixbit import _io
from mixbit.cost import Costs, LayerBits
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger
from mixbit.metric import ACCURACY, MetricInfo
from mixbit.policy import bits_digest
from mixbit.runs import _folder
from mixbit.runs.subject import Outcome
from mixbit.sensitivity.metering import Effort

MEASURED, SEARCH = "measured.jsonl", "search"
TABLE, LINES = "compare.json", "compare.csv"
JUDGE = "judge"
"""Key of `config.json` that says which supernet ranks the policies."""
FLOAT, JUDGED_FLOAT, _EFFORT, _ROW = "float32", "judged/float32", "effort/", "row/"
"""Keys of the ledger, or how they begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a trained supernet says of a policy, on training images that are held out; or of the float network there."""

    loss: float
    value: float
    """Of the metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy within one budget, fine-tuned with one seed; or the reason why there is none."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    budget: str
    name: str
    """The method with its settings, as it was asked for, or the name of a policy from elsewhere."""
    seed: int
    """Seed of calibration, order of training and augmentation."""
    outside: bool = False
    """Whether the policy came as a file."""
    reason: str = ""
    """Why there is no result; empty if there is one."""
    bits: dict[str, list[int | None]] = field(default_factory=dict)
    """Layer -> weight and activation bits."""
    costs: Costs | None = None
    slack: dict[str, float] = field(default_factory=dict)
    """What is left of each limit, by kind, in BitOps and bytes."""
    calibrated: float | None = None
    """Accuracy (0 to 1) of the float weights under the policy, activations calibrated."""
    tuned: float | None = None
    """Accuracy after fine-tuning; None if there was none."""
    judged: Judged | None = None
    """What the supernet says of it; None where none was asked."""
    metric: MetricInfo = ACCURACY.info
    """What the accuracies are values of, by default top-1 accuracy."""

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Row:
        """Read what `to_json` gave."""
        return _io.as_record(values, cls, where="The row", remedy="Give what to_json() gave.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy within one budget over all its seeds."""

    budget: str
    name: str
    outside: bool
    reason: str
    """Why there is no result; empty if there is one."""
    costs: Costs | None
    slack: dict[str, float]
    calibrated: dict[int, float]
    """Metric after calibration, by seed."""
    tuned: dict[int, float]
    """Seed -> accuracy after fine-tuning."""
    effort: Effort | None
    twins: tuple[str, ...] = ()
    """Other rows of this budget with the same bits: they share their results."""
    judged: Judged | None = None
    """What the supernet says of it, whatever the seed."""
    rank: int | None = None
    """Its place within the budget by the loss in the supernet, from 1; equal losses share the better place."""

    @property
    def accuracy(self) -> float | None:
        """Mean over the seeds: after fine-tuning, or where there was none, after calibration; else as it was judged."""
        values = list((self.tuned or self.calibrated).values())
        if not values:
            return None if self.judged is None else self.judged.value
        return statistics.fmean(values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation of those values over the seeds; None for fewer than two."""
        values = list((self.tuned or self.calibrated).values())
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The supernet that ranks the policies of a comparison."""

    weights: str
    """Digest of its file."""
    on: str
    """What it is measured on, in words."""
    float32: Judged | None = None
    """The float network on the same images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Methods side by side: same network, data, budgets, fine-tuning and seeds."""

    float32: Outcome
    """The network as it came; with a judge alone, on the judge's images in the place of the test images."""
    rows: tuple[Row, ...]
    efforts: dict[str, Effort]
    """Name -> what the search took, as far as it is known."""
    interrupted: tuple[str, ...]
    """Names of searches that were killed and continued: their effort is that of the last part only."""
    settings: dict[str, Any] | None
    """Settings of the fine-tuning; None if there is none."""
    folder: Path
    files: dict[Path, str]
    budget_efforts: dict[str, dict[str, Effort]] = field(default_factory=dict)
    """Name -> budget -> what the search under it took, of methods that search once a budget."""
    budget_interrupted: tuple[tuple[str, str], ...] = ()
    """Name and budget of such searches that were killed and continued."""
    judge: Judge | None = None
    """What ranks the policies, where that is a supernet."""

    @property
    def budgets(self) -> tuple[str, ...]:
        """All budgets of the rows, in the order of the alphabet."""
        return tuple(sorted({row.budget for row in self.rows}))

    def search_folder(self, name: str, budget: str | None = None) -> Path:
        """The run folder of a method's search; of one that searches once a budget, that under this one."""
        folder = self.folder / SEARCH / slug(name)
        under = None if budget is None else folder / slug(budget)
        return folder if under is None or not (under / _folder.POLICY).is_file() else under

    def effort(self, name: str, budget: str) -> Effort | None:
        """What the search of a method took, as far as it is known: all of it, or under this budget."""
        return self.efforts.get(name) or self.budget_efforts.get(name, {}).get(budget)

    def was_interrupted(self, name: str, budget: str) -> bool:
        """Whether that search was killed and continued, so that its effort is that of the last part only."""
        return name in self.interrupted or (name, budget) in self.budget_interrupted

    def results(self, budget: str) -> tuple[PolicyResult, ...]:
        """Rows of one budget, seeds together, the best first; what has no result stands last.

        The best by fine-tuning; by calibration where there was none; by the judge's rank where that is all.
        """
        groups: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.budget == budget:
                groups.setdefault(row.name, []).append(row)
        found = [self._result(rows) for rows in groups.values()]
        bits = {name: next((row.bits for row in rows if row.bits), None) for name, rows in groups.items()}
        losses = [one.judged.loss for one in found if one.judged is not None]
        found = [replace(one, twins=_twins(one.name, bits), rank=_rank(one.judged, losses)) for one in found]
        return tuple(sorted(found, key=self._place))

    def _place(self, one: PolicyResult) -> tuple[bool, float, str]:
        """The best first; a metric of no known direction leaves them in the order of their names."""
        if one.rank is not None and not one.tuned and not one.calibrated:
            return False, one.rank, one.name
        known = one.accuracy is not None and self.metric.larger_is_better is not None
        return one.accuracy is None, self.metric.gain(0.0, one.accuracy or 0.0) if known else 0.0, one.name

    @property
    def metric(self) -> MetricInfo:
        """What all accuracies are values of, by default top-1 accuracy."""
        return self.float32.metric

    def _result(self, rows: list[Row]) -> PolicyResult:
        done = [row for row in rows if not row.reason]
        first = (done or rows)[0]
        return PolicyResult(
            budget=first.budget,
            name=first.name,
            outside=first.outside,
            reason=next((row.reason for row in rows if row.reason), ""),
            costs=first.costs,
            slack=first.slack,
            calibrated={row.seed: row.calibrated for row in done if row.calibrated is not None},
            tuned={row.seed: row.tuned for row in done if row.tuned is not None},
            effort=self.effort(first.name, first.budget),
            judged=first.judged,
        )


def _rank(judged: Judged | None, losses: list[float]) -> int | None:
    return None if judged is None else 1 + sum(loss < judged.loss for loss in losses)


def _twins(name: str, bits: dict[str, dict[str, list[int | None]] | None]) -> tuple[str, ...]:
    mine = bits[name]
    return tuple(sorted(other for other, its in bits.items() if mine and its == mine and other != name))


# ------------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True, slots=True, kw_only=True)
class _Float:
    """What is kept of the network as it came."""

    accuracy: float
    costs: Costs
    metric: MetricInfo = ACCURACY.info


@dataclass(frozen=True, slots=True, kw_only=True)
class _SearchEffort(Effort):
    """What is kept of what a search took."""

    name: str
    interrupted: bool = False
    budget: str | None = None
    """Of a search under one."""

    def effort(self) -> Effort:
        """Without the name."""
        return Effort.from_json(asdict(self))


def slug(text: str) -> str:
    """A name as a file name.

    >>> slug("random?seed=1")
    'random_seed=1'
    """
    return re.sub(r"[^\w.,=-]", "_", text)


def measured(run: Path) -> Ledger:
    """The ledger of a comparison's folder; opened anew it has what other processes put in.

    Raises:
        MixbitError: no folder of a comparison, or a malformed line.
        StaleRun: the ledger is of another folder.
    """
    facts = _folder.read(run)
    if facts["command"] != "compare":
        raise MixbitError(f"{run} holds no comparison. Give the --run folder of a mixbit compare.")
    settings = {key: value for key, value in facts.items() if key not in ("format", "version")}
    return Ledger(run / MEASURED, "measurements of a comparison", settings, before=[run / "float.json"])


def row_key(budget: str, name: str, seed: int) -> str:
    """Key of one row, in `measured`."""
    return f"{_ROW}{slug(budget)}/{slug(name)}/seed-{seed}"


def accuracies_key(bits: Mapping[str, LayerBits], seed: int) -> str:
    """Key of the accuracies at some bits, in `measured`; the folder of their fine-tuning has the same name."""
    return f"train/{bits_digest(bits)}-seed-{seed}"


def judged_key(bits: Mapping[str, LayerBits]) -> str:
    """Key of what the supernet says of some bits, in `measured`; what holds it meanwhile has the same name."""
    return f"judged/{bits_digest(bits)}"


def read_row(run: Path, budget: str, name: str, seed: int) -> Row | None:
    """A row, if it is there."""
    found, key = measured(run), row_key(budget, name, seed)
    return found.read(key, Row) if key in found else None


def write_row(run: Path, row: Row) -> None:
    """Keep a row, in the place of an older one."""
    measured(run).put(row_key(row.budget, row.name, row.seed), row.to_json())


def write_effort(run: Path, name: str, effort: Effort, *, interrupted: bool = False, budget: str | None = None) -> None:
    """Keep what a search took."""
    key = f"{_EFFORT}{slug(name)}" if budget is None else f"{_EFFORT}{slug(name)}/{slug(budget)}"
    under = {} if budget is None else {"budget": budget}
    measured(run).put(key, {"name": name, "interrupted": interrupted, **under, **effort.to_json()})


def read_comparison(run: Path) -> Comparison:
    """The rows that a comparison has made so far, whether it is finished, running or was killed.

    Raises:
        MixbitError: the folder is not one of a comparison, or its float network has not been evaluated yet.
    """
    found = measured(run)
    if FLOAT not in found:
        raise MixbitError(f"{run} holds no comparison yet: its float network was not evaluated. Run it again.")
    efforts = [found.read(key, _SearchEffort) for key in sorted(found) if key.startswith(_EFFORT)]
    rows = [found.read(key, Row) for key in found if key.startswith(_ROW)]
    start = found.read(FLOAT, _Float)
    return Comparison(
        float32=Outcome(name="float32", accuracy=start.accuracy, costs=start.costs, metric=start.metric),
        rows=tuple(sorted(rows, key=lambda row: (row.budget, row.name, row.seed))),
        efforts={one.name: one.effort() for one in efforts if one.budget is None},
        interrupted=tuple(one.name for one in efforts if one.interrupted and one.budget is None),
        settings=_folder.read(run).get("settings"),
        folder=run,
        files={run / TABLE: "all rows", run / LINES: "the same, one line a row"},
        budget_efforts=_by_budget(efforts),
        budget_interrupted=tuple((one.name, one.budget) for one in efforts if one.interrupted and one.budget),
        judge=_judge(run, found),
    )


def _judge(run: Path, found: Ledger) -> Judge | None:
    """The supernet that the folder was begun with, if there is one."""
    facts = _folder.read(run).get(JUDGE)
    if facts is None:
        return None
    known = found.read(JUDGED_FLOAT, Judged) if JUDGED_FLOAT in found else None
    return Judge(weights=facts["weights"], on=facts["on"], float32=known)


def _by_budget(efforts: Iterable[_SearchEffort]) -> dict[str, dict[str, Effort]]:
    found: dict[str, dict[str, Effort]] = {}
    for one in efforts:
        if one.budget is not None:
            found.setdefault(one.name, {})[one.budget] = one.effort()
    return found


def write_tables(run: Path) -> None:
    """`compare.json` and `compare.csv` of the rows so far."""
    found = read_comparison(run)
    _io.write_json(run / TABLE, as_json(found))
    _io.write_text(run / LINES, as_csv(found))


def as_json(found: Comparison) -> dict[str, Any]:
    """Everything that a comparison knows, in plain values."""
    return {
        "format": "mixbit-comparison",
        "version": 1,
        "metric": found.metric.to_json(),
        "float": {"accuracy": found.float32.accuracy, "costs": asdict(found.float32.costs)},
        "settings": found.settings,
        **({} if found.judge is None else {JUDGE: asdict(found.judge)}),
        "efforts": {name: effort.to_json() for name, effort in found.efforts.items()},
        "interrupted": list(found.interrupted),
        **_under_budgets(found),
        "rows": [row.to_json() for row in found.rows],
    }


def _under_budgets(found: Comparison) -> dict[str, Any]:
    """What searches under budgets took, where there are any."""
    efforts = {n: {b: one.to_json() for b, one in by.items()} for n, by in found.budget_efforts.items()}
    return {"budget_efforts": efforts, "budget_interrupted": list(found.budget_interrupted)} if efforts else {}


def as_csv(found: Comparison) -> str:
    """One line a row: budget, name, seed, accuracies, costs, effort."""
    out = io.StringIO()
    lines = [_line(row, found.effort(row.name, row.budget) or Effort()) for row in found.rows]
    writer = csv.DictWriter(out, list(lines[0]) if lines else ["budget", "name", "seed"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _line(row: Row, effort: Effort) -> dict[str, object]:
    return {
        **{key: getattr(row, key) for key in ("budget", "name", "seed", "outside", "calibrated", "tuned")},
        "judged": row.judged.value if row.judged else None,
        "judged_loss": row.judged.loss if row.judged else None,
        "bitops": row.costs.bitops if row.costs else None,
        "weight_bytes": row.costs.weight_bytes if row.costs else None,
        "activation_bytes": row.costs.activation_bytes if row.costs else None,
        **{f"search_{key}": value for key, value in effort.to_json().items()},
        "reason": row.reason,
    }
