"""Accuracy and costs of a trained run, or of any model with or without a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixbit import _distributed, models
from mixbit.cost import Costs, costs, float_costs
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics
from mixbit.evaluation import evaluate as measure
from mixbit.policy import Policy
from mixbit.quantize import quantize
from mixbit.runs import _folder
from mixbit.runs.subject import Outcome, Subject
from mixbit.runs.training import put_policy_on
from mixbit.task import Task

__all__ = ["Evaluated", "evaluate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """Metrics on the test split, and costs beside those of float32."""

    outcome: Outcome
    metrics: Metrics
    float32: Costs
    subject: Subject
    policy: Path | None


def evaluate(
    target: str,
    *,
    data: str | None = None,
    policy: Path | None = None,
    weights: Path | None = None,
    seed: int | None = None,
) -> Evaluated:
    """Evaluate a run folder (it knows its model, bits and data), or a model as for `train`.

    Args:
        target: run folder of a training, or a model.
        data: of a model; for a run folder, another data set than its own.
        policy: of a model: its bits, with float weights calibrated only.
        weights: of a model.
        seed: of the data split; None takes the run's own, or 0.
    """
    _distributed.start()
    if Path(target).is_dir():
        if policy is not None or weights is not None:
            raise MixbitError(
                f"{target} is a run folder and brings its own weights and bits: leave --policy and --weights out."
            )
        return _evaluate_run(Path(target), data, seed)
    subject = Subject(model=target, data=data, weights=weights, seed=seed or 0)
    task, _ = subject.task()
    chosen = None
    if policy is not None:
        chosen = Policy.load(policy).check(task.network)
        put_policy_on(task.model, chosen, task, seed=subject.seed)
    return _measure(task, subject, chosen, policy)


def _evaluate_run(run: Path, data: str | None, seed: int | None) -> Evaluated:
    facts = _folder.read(run)
    if facts.get("command") != "train" or not (run / _folder.WEIGHTS).is_file():
        raise MixbitError(
            f"{run} holds no trained network ({_folder.WEIGHTS}). Give the --run folder of a finished mixbit train."
        )
    found = Subject.from_json(facts["subject"])
    # The run's own weights replace those that it started from, so the file named then need not exist any more.
    base = Subject(model=found.model, data=data or found.data, seed=found.seed if seed is None else seed)
    task, _ = base.task()
    path = run / _folder.POLICY if facts.get("bits") is not None else None
    policy = None
    if path is not None:
        policy = Policy.load(path).check(task.network)
        quantize(task.model, policy, task.network)
    models.load_weights(task.model, run / _folder.WEIGHTS)
    subject = Subject(
        model=base.model,
        data=base.data,
        weights=run / _folder.WEIGHTS if path is None else found.weights,
        seed=base.seed,
    )
    return _measure(task, subject, policy, path)


def _measure(task: Task, subject: Subject, policy: Policy | None, path: Path | None) -> Evaluated:
    metrics = measure(task.model, task.test, loss=task.loss)
    used = float_costs(task.network) if policy is None else costs(task.network, policy.layers)
    name = "float32" if policy is None else policy.method
    return Evaluated(
        outcome=Outcome(name=name, accuracy=metrics.accuracy, costs=used),
        metrics=metrics,
        float32=float_costs(task.network),
        subject=subject,
        policy=path,
    )
