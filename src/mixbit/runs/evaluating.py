"""Accuracy and costs of a trained run, or of any model with or without a policy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixbit import _distributed
from mixbit.cost import Costs, costs, float_costs
from mixbit.errors import MixbitError
from mixbit.evaluation import Metrics
from mixbit.evaluation import evaluate as measure
from mixbit.policy import Policy
from mixbit.quantization import put_policy_on
from mixbit.runs._trained import open_run
from mixbit.runs.subject import Outcome, Subject, further
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
    run: Path | None
    """The run folder that was evaluated, if it was one."""
    further: tuple[str, ...] = ()
    """The task's other metrics with their units, for people."""


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
        seed: of random draws, those of a calibration among them; None takes the run's own, or 0.
    """
    _distributed.start()
    if Path(target).is_dir():
        if policy is not None or weights is not None:
            raise MixbitError(
                f"{target} is a run folder and brings its own weights and bits: leave --policy and --weights out."
            )
        opened = open_run(Path(target), data=data, seed=seed)
        return _measure(opened.task, opened.subject, opened.policy, opened.path, run=Path(target))
    subject = Subject(model=target, data=data, weights=weights, seed=seed or 0)
    task, _ = subject.task()
    chosen = None
    if policy is not None:
        chosen = Policy.load(policy).check(task.network)
        put_policy_on(task.model, chosen, task, seed=subject.seed)
    return _measure(task, subject, chosen, policy)


def _measure(
    task: Task, subject: Subject, policy: Policy | None, path: Path | None, run: Path | None = None
) -> Evaluated:
    metrics = measure(task.model, task.test, loss=task.objective, label="evaluate")
    used = float_costs(task.network) if policy is None else costs(task.network, policy.layers)
    name = "float32" if policy is None else policy.method
    return Evaluated(
        outcome=Outcome(name=name, accuracy=metrics.value, costs=used, metric=task.info),
        metrics=metrics,
        float32=float_costs(task.network),
        subject=subject,
        policy=path,
        run=run,
        further=further(task, metrics),
    )
