"""A finished training, opened again: its network with its weights, bits and data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mixbit import models
from mixbit.errors import MixbitError
from mixbit.policy import Policy
from mixbit.quantization import quantize
from mixbit.runs import _folder
from mixbit.runs._options import quantize_config
from mixbit.runs.subject import Subject
from mixbit.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """What a run folder of `train` holds."""

    task: Task
    """Its model carries the trained weights, and the quantizers if there is a policy."""
    subject: Subject
    policy: Policy | None
    path: Path | None
    """Path of the policy file."""


def open_run(run: Path, *, data: str | None = None, seed: int | None = None) -> TrainedRun:
    """Read a run folder of `train`.

    Args:
        run: the folder.
        data: another data set than its own.
        seed: another one than its own.

    Raises:
        MixbitError: no folder of a finished training.
    """
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
        quantize(task.model, policy, task.network, quantize_config(facts.get("settings", {})))
    models.load_weights(task.model, run / _folder.WEIGHTS)
    subject = Subject(
        model=base.model,
        data=base.data,
        weights=run / _folder.WEIGHTS if path is None else found.weights,
        seed=base.seed,
    )
    return TrainedRun(task=task, subject=subject, policy=policy, path=path)
