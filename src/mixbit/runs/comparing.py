"""Search methods side by side: same network, data, budgets, fine-tuning and seeds, and what each search took.

Every part of the work is kept as soon as it is done: what a method ends in, the policy of a budget and a fine-tuning as
files; its accuracies, the effort of a search and a row in one ledger. A comparison that was killed goes on with what is
missing, and several processes may work on one folder at a time: each takes what no other one holds.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from mixbit import _batch, _distributed, _io, methods
from mixbit._progress import announce
from mixbit._settings import read_named
from mixbit.allocation import AllocationSettings, RepairHow, allocate
from mixbit.cost import Budget, costs, float_costs
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics, evaluate, try_out
from mixbit.methods import CostClass
from mixbit.policy import Front, Policy, Scores, resolve_pins
from mixbit.quantization import QuantizeConfig, put_policy_on
from mixbit.runs import _comparison, _folder
from mixbit.runs._comparison import Comparison, Judge, Judged, PolicyResult, Row, read_comparison
from mixbit.runs._judge import PolicyJudge
from mixbit.runs._lock import Busy, hold
from mixbit.runs._options import QUANTIZE, quantize_config, read_options
from mixbit.runs._sources import ENDS
from mixbit.runs.searching import search
from mixbit.runs.subject import Subject, metric_facts
from mixbit.runs.training import train
from mixbit.sensitivity.metering import Effort, Meter
from mixbit.task import Task
from mixbit.training import CHECKPOINT

__all__ = [
    "BASELINES",
    "Comparison",
    "Effort",
    "Entry",
    "Judge",
    "Judged",
    "PolicyResult",
    "Row",
    "compare",
    "read_comparison",
]

BASELINES = ("uniform", "random")
"""What every search must beat; they take part unless they are asked not to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accuracies:
    """Of some bits and one seed."""

    calibrated: float | None = None
    """None with a judge alone."""
    tuned: float | None = None
    """None if there was no fine-tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A method that takes part, with its settings."""

    name: str
    """The text that it was asked for with; two entries of one method differ in it."""
    method: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Entry:
        """`METHOD`, or `METHOD?key=value&key=value`, where values are JSON or else text.

        Raises:
            MixbitError: a setting without `=`, or given twice.

        >>> Entry.parse("random?seed=1").settings
        {'seed': 1}
        """
        method, settings = read_named(text, what="method")
        return cls(name=text.strip(), method=method, settings=settings)


def compare(
    subject: Subject,
    entries: Sequence[Entry | str],
    budgets: Sequence[str],
    run: Path,
    *,
    judge: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    fine_tune: bool | None = None,
    seeds: Sequence[int] = (0,),
    policies: Mapping[str, Path] | None = None,
    efforts: Mapping[str, Effort] | None = None,
    baselines: bool = True,
    repair: RepairHow = "forbid",
    task: Task | None = None,
    quiet: bool = False,
    tell: Callable[[Row], None] | None = None,
) -> Comparison:
    """Search with every method, take a policy for every budget, calibrate and fine-tune with every seed; or judge.

    A method that ends in scores or in a front searches once; from these a policy is allocated, or picked, for every
    budget. One that ends in a policy searches once a budget. Rows with the same bits and seed share one training. A
    method that fails, or that has no policy within a budget, gets a row with the reason; it is tried again by the next
    call. Methods, budgets and seeds may be added by later calls on the same folder; the subject, the judge and the
    settings of fine-tuning may not change.

    With a judge, a trained supernet says what each policy is worth, in seconds, on training images that are held out;
    nothing is calibrated or fine-tuned then, unless that is asked for as well, and no test image is read. A policy of
    bits that the supernet was not trained at gets a row with the reason.

    Args:
        subject: model, weights and data; its seed is that of searches which set none.
        entries: methods, as `Entry` or as its text.
        budgets: each one limit (`bitops=3x3`) or several with commas between (`bitops=3x3,weight-bytes=10x`).
        run: folder of this comparison.
        judge: run folder of a supernet of this network, of `mixbit supernet train` or `mixbit search qfa`, that ranks
            the policies. Methods whose settings name no bits leave out those that it was not trained at.
        settings: of the fine-tuning, as for `mixbit.runs.train`; not its seed. `quantize` is that of calibration too.
        fine_tune: False stops after calibration, or with a judge after its judgement; None is True without a judge
            and False with one.
        seeds: of calibration and fine-tuning.
        policies: name -> policy file from elsewhere; it takes part in the budget that it names, or if it names none, in
            all. A policy over the budget gets a row that says so.
        efforts: name -> what the search of such a policy took, as far as it is known.
        baselines: add the methods `uniform` and `random` where they are not among the entries.
        repair: of scores that improve with fewer bits, for all methods, see `mixbit.allocation.allocate`. Where nothing
            is left within a budget, the best uniform network is taken, with a note in its policy.
        task: the subject's, if it is at hand already.
        quiet: no progress bars.
        tell: called with every row that this call made or renewed.

    Raises:
        MixbitError: an unknown method or setting, an entry twice, no budget or seed, several processes under torchrun;
            a judge of another model, or settings and seeds that have no effect beside it.
        StaleRun: the folder belongs to another comparison.
    """
    _check_alone()
    tunes = judge is None if fine_tune is None else fine_tune
    chosen = [Entry.parse(one) if isinstance(one, str) else one for one in entries]
    if baselines:
        chosen += [Entry.parse(name) for name in BASELINES if name not in {one.method for one in chosen}]
    participants = _participants(chosen, policies or {}, subject.seed)
    limits = {text: Budget.parse(text.split(",")) for text in budgets}
    if not limits or not seeds or not participants:
        raise MixbitError("There is nothing to compare. Give at least one method, one budget and one seed.")
    if judge is not None and not tunes:
        _check_judged_alone(settings, seeds)
    plain = _plain_settings(settings, tunes)
    task = subject.task()[0] if task is None else task  # before the folder is begun: a typo must not claim it
    task.info.directed()
    smoothing = (settings or {}).get("label_smoothing", 0.0)
    try_out(task.model, task.test if judge is None or tunes else task.train, task.objective, label_smoothing=smoothing)
    pins = resolve_pins(task.network)
    resolved = {text: limit.resolve(task.network, pins) for text, limit in limits.items()}  # one of a table ends here
    supernet = None if judge is None else PolicyJudge.open(judge, subject, task)
    facts: dict[str, Any] = {"command": "compare", **subject.facts(), "settings": plain} | metric_facts(task)
    if plain is None and QUANTIZE in (settings or {}):  # of the fine-tuning nothing counts but what calibration has too
        facts[QUANTIZE] = (settings or {})[QUANTIZE]
    facts |= {} if supernet is None else {_comparison.JUDGE: supernet.facts}
    _folder.begin(run, facts if repair == "forbid" else {**facts, "repair": repair})
    config = quantize_config(settings or {})
    worker = _Worker(
        subject=subject,
        task=task,
        run=run,
        settings=plain,
        quantize=config,
        repair=repair,
        quiet=quiet,
        resolved=resolved,
        judge=supernet,
    )
    worker.evaluate_float()
    worker.warm_up()
    for name, effort in (efforts or {}).items():
        _comparison.write_effort(run, name, effort)
    worker.work(
        [(one, text, limit, seed) for seed in seeds for one in participants for text, limit in limits.items()], tell
    )
    _comparison.write_tables(run)
    return read_comparison(run)


def _check_alone() -> None:
    _distributed.start()
    if _distributed.world_size() > 1:
        raise MixbitError(
            "A comparison does not run under torchrun. Start the same command several times on one folder instead: "
            "each process takes what no other one works on."
        )


def _check_judged_alone(settings: Mapping[str, Any] | None, seeds: Sequence[int]) -> None:
    """What has no effect on a judgement is not taken in silence.

    Raises:
        MixbitError: settings of a fine-tuning, or seeds.
    """
    given = [*(settings or {}), *([] if tuple(seeds) == (0,) else ["seeds"])]
    if given:
        raise MixbitError(
            f"{', '.join(given)}: no effect on a supernet's judgement, which neither calibrates nor trains. Leave "
            f"{'it' if len(given) == 1 else 'them'} out; or fine-tune as well: --epochs 1 (in Python, fine_tune=True)."
        )


def _plain_settings(settings: Mapping[str, Any] | None, fine_tune: bool) -> dict[str, Any] | None:
    values = dict(settings or {})
    if "seed" in values:
        raise MixbitError("settings: the seed of fine-tuning is not one setting. Give seeds=(0, 1, ...).")
    read_options(values, 0)
    return values if fine_tune else None


# ---------------------------------------------------------------------------------------------------- participants


@dataclass(frozen=True, slots=True, kw_only=True)
class _Participant:
    """A method, or a policy file."""

    name: str
    entry: Entry | None = None
    path: Path | None = None


def _participants(entries: Sequence[Entry], policies: Mapping[str, Path], seed: int) -> list[_Participant]:
    """Those with the cheapest search first, so that most of a table is there early; policies of others last."""
    order = get_args(CostClass)
    for one in entries:
        methods.make(one.method, {"seed": seed, **one.settings})  # a typo ends here, before any work
    ordered = sorted(entries, key=lambda one: order.index(methods.info(one.method).cost))
    found = [_Participant(name=one.name, entry=one) for one in ordered]
    found += [_Participant(name=name, path=path) for name, path in policies.items()]
    folders = [_comparison.slug(one.name) for one in found]
    twice = sorted({one.name for one, folder in zip(found, folders, strict=True) if folders.count(folder) > 1})
    if twice:
        raise MixbitError(f"{', '.join(map(repr, twice))} would be two rows of one name. Give each a name of its own.")
    return found


# -------------------------------------------------------------------------------------------------------- work

_Part = tuple[_Participant, str, Budget, int]


@dataclass(kw_only=True)
class _Worker:
    """One process at work on the folder of a comparison."""

    subject: Subject
    task: Task
    run: Path
    settings: dict[str, Any] | None
    quantize: QuantizeConfig
    repair: RepairHow
    quiet: bool
    resolved: dict[str, dict[str, int]]
    """Budget as text -> its limits in whole numbers."""
    judge: PolicyJudge | None = None
    failed: dict[str, str] = field(default_factory=dict)
    """Name (and budget, of one under it) -> reason of a search that failed in this call: it is not tried again."""

    def _evaluated(self, model: nn.Module) -> Metrics:
        label = None if self.quiet else "evaluate"
        return evaluate(model, self.task.test, loss=self.task.objective, channels_last=True, label=label)

    @property
    def judges_alone(self) -> bool:
        """Whether nothing is calibrated or fine-tuned, and no test image is read."""
        return self.judge is not None and self.settings is None

    def evaluate_float(self) -> None:
        """Accuracy and costs of the network as it came."""
        measured = _comparison.measured(self.run)
        if self.judge is not None and _comparison.JUDGED_FLOAT not in measured:
            measured.put(_comparison.JUDGED_FLOAT, asdict(self.judge.float32()))
        if _comparison.FLOAT not in measured:
            if self.judges_alone:
                value, info = measured.read(_comparison.JUDGED_FLOAT, Judged).value, self.task.info
            else:
                found = self._evaluated(self.task.model)
                value, info = found.value, found.info
            kept = {"accuracy": value, "metric": info.to_json()}
            measured.put(_comparison.FLOAT, {**kept, "costs": asdict(float_costs(self.task.network))})

    def warm_up(self) -> None:
        """One pass there and back, so that what a process does once is not put down to its first search."""
        outputs = _batch.call(copy.deepcopy(self.task.model), self.task.example())
        sums = [one.sum() for one in _batch.tensors(outputs) if one.requires_grad]
        if sums:
            torch.stack(sums).sum().backward()  # type: ignore[no-untyped-call]

    def work(self, parts: Sequence[_Part], tell: Callable[[Row], None] | None) -> None:
        """Do what no other process is at, then wait for the rest."""
        left = list(parts)
        for wait in (False, True):
            busy = []
            for at, part in enumerate(left):
                if not self.quiet:
                    announce("compare", at, len(left), f"{part[0].name}, {part[1]}, seed {part[3]}")
                try:
                    row = self._row(part, wait)
                except Busy:
                    busy.append(part)
                    continue
                if row is not None and tell is not None:
                    tell(row)
            left = busy

    def _row(self, part: _Part, wait: bool) -> Row | None:
        """The row, if it is new."""
        participant, text, budget, seed = part
        blank = Row(
            budget=text, name=participant.name, seed=seed, outside=participant.path is not None, metric=self.task.info
        )
        try:
            row = self._filled(blank, participant, budget, wait)
        except Busy:
            raise
        except Exception as error:  # one method's failure must not end the others' work
            row = replace(blank, reason=self._reason(error, participant.name))
        if row is None or row == _comparison.read_row(self.run, text, participant.name, seed):
            return None
        _comparison.write_row(self.run, row)
        _comparison.write_tables(self.run)
        return row

    def _reason(self, error: Exception, name: str) -> str:
        """The message of an error that we raise on purpose; of any other one the traceback is kept as well."""
        if isinstance(error, MixbitError):
            return str(error)
        path = self.run / "errors" / f"{_comparison.slug(name)}.txt"
        _io.write_text(path, "".join(traceback.format_exception(error)))
        return f"{type(error).__name__}: {error} (traceback in {path.relative_to(self.run)})"

    def _filled(self, blank: Row, participant: _Participant, budget: Budget, wait: bool) -> Row | None:
        """The row with everything in it; None for a policy that belongs to another budget."""
        policy = self._policy(participant, blank.budget, budget, wait)
        if policy is None:
            return None
        bits = {name: [b.weight_bits, b.activation_bits] for name, b in policy.layers.items()}
        old = _comparison.read_row(self.run, blank.budget, blank.name, blank.seed)
        if old is not None and not old.reason and old.bits == bits:
            return old
        used = costs(self.task.network, policy.layers)
        policy = policy.check(self.task.network, found=used if policy.macs == "exact" else None)
        limits = self.resolved[blank.budget]
        budget.check(used, limits)
        judged = None if self.judge is None else self._judged(self.judge, policy, wait)
        found = _Accuracies() if self.judges_alone else self._accuracies(policy, blank.seed, wait)
        return replace(
            blank,
            bits=bits,
            costs=used,
            slack=budget.slack(used, limits),
            calibrated=found.calibrated,
            tuned=found.tuned,
            judged=judged,
        )

    # -- policies

    def _policy(self, participant: _Participant, text: str, budget: Budget, wait: bool) -> Policy | None:
        if participant.path is not None:
            policy = Policy.load(participant.path)
            policy.check_layers(self.task.network)
            return policy if policy.budget in ({}, budget.texts) else None
        assert participant.entry is not None
        folder = self.run / _comparison.SEARCH / _comparison.slug(participant.name)
        with hold(folder, wait=wait):
            path = folder / "policies" / f"{_comparison.slug(text)}.json"
            if not path.exists():
                self._chosen(participant.entry, folder, text, budget).save(path)
        policy = Policy.load(path)
        policy.check_layers(self.task.network)
        return policy

    def _chosen(self, entry: Entry, folder: Path, text: str, budget: Budget) -> Policy:
        """What the method has for the budget: the best by its scores, the best of its front, or a search of its own."""
        under = text if methods.info(entry.method).kind == "policy" else None
        key = entry.name if under is None else f"{entry.name} within {under}"
        if key in self.failed:
            raise MixbitError(self.failed[key])
        try:
            found = self._metered(entry, folder if under is None else folder / _comparison.slug(under), under)
        except Exception as error:
            self.failed[key] = self._reason(error, entry.name)
            raise
        if isinstance(found, Policy):
            return found
        if isinstance(found, Front):
            return found.pick(budget, self.task.network)
        settings = AllocationSettings(repair=self.repair, or_uniform=True)
        return allocate(self.task.network, found, budget, settings)[0]

    def _metered(self, entry: Entry, folder: Path, text: str | None = None) -> Scores | Policy | Front:
        """What the method ends in, under a budget if there is one, with what its search took."""
        done, begun = (folder / ENDS[methods.info(entry.method).kind]).exists(), _has_state(folder)
        settings = entry.settings if self.judge is None else self.judge.candidates(entry.method, entry.settings)
        meter, under = Meter(self.task), () if text is None else text.split(",")
        with meter.running() as task:
            found = search(
                self.subject, entry.method, settings, folder, budget=under, task=task, quiet=self.quiet
            ).result
        if not done:
            _comparison.write_effort(self.run, entry.name, meter.effort, interrupted=begun, budget=text)
        return found

    # -- quality

    def _judged(self, judge: PolicyJudge, policy: Policy, wait: bool) -> Judged:
        """What the supernet says; policies of the same bits share it."""
        key = _comparison.judged_key(policy.layers)
        with hold(self.run / key, wait=wait):
            known = _comparison.measured(self.run)
            if key not in known:
                known.put(key, asdict(judge(policy)))
            return known.read(key, Judged)

    def _accuracies(self, policy: Policy, seed: int, wait: bool) -> _Accuracies:
        """After calibration and after fine-tuning; policies of the same bits share them."""
        key = _comparison.accuracies_key(policy.layers, seed)
        folder = self.run / key
        with hold(folder, wait=wait):
            known = _comparison.measured(self.run)  # as it is now: another process may have held the folder
            if key not in known:
                known.put(key, dict(self._measured(policy, seed, folder)))
            return known.read(key, _Accuracies)

    def _measured(self, policy: Policy, seed: int, folder: Path) -> Iterator[tuple[str, float]]:
        model = copy.deepcopy(self.task.model)
        put_policy_on(model, policy, self.task, seed=seed, config=self.quantize)
        yield "calibrated", self._evaluated(model).value
        if self.settings is not None:
            subject = replace(self.subject, seed=seed)
            done = train(subject, policy, self.settings, folder, task=self.task, quiet=self.quiet)
            yield "tuned", done.outcome.accuracy
            (folder / CHECKPOINT).unlink(missing_ok=True)  # it is finished, and a comparison has many


def _has_state(folder: Path) -> bool:
    """Whether an earlier search left something from which this one goes on."""
    ours = {_folder.CONFIG, ".lock", "policies"}
    return folder.is_dir() and any(path.name not in ours for path in folder.iterdir())
