"""A finished training, opened again: its network with its weights, bits and data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixbit import models
from mixbit.errors import MixbitError
from mixbit.evaluation import reestimate_batch_norm
from mixbit.policy import Policy
from mixbit.quantization import fold_residuals, quantize
from mixbit.runs import _folder
from mixbit.runs._options import quantize_config, read_options
from mixbit.runs.subject import Subject
from mixbit.supernet.training import WEIGHTS as SUPERNET
from mixbit.task import Task
from mixbit.training import statistics_batches


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRun:
    """What a run folder of `train` holds."""

    task: Task
    """Its model carries the trained weights, and the quantizers if there is a policy."""
    subject: Subject
    policy: Policy | None
    path: Path | None
    """Path of the policy file."""
    trained_on: Subject
    """Subject of the training itself, with its own data and seed."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the training."""

    def fold(self) -> dict[str, float]:
        """Put plain quantizers in the place of BatchQuant's, with norms' statistics of the training's own samples.

        Returns:
            As `mixbit.quantization.fold_residuals`; a run without such quantizers is left as it is.
        """
        model, config = self.task.model, read_options(self.settings, self.trained_on.seed).training
        moved = fold_residuals(model)
        if moved and config.bn_samples:
            own = (self.subject.data, self.subject.seed) == (self.trained_on.data, self.trained_on.seed)
            task = self.task if own else self.trained_on.task()[0]
            device = next(iter(model.parameters())).device
            reestimate_batch_norm(model, statistics_batches(task.train, config, device))
        return moved


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
    if (run / SUPERNET).is_file():
        raise MixbitError(
            f"{run} holds a network of many bit-widths, and no bits that were chosen. Take a sub-network: mixbit "
            f"search qfa {run} --run FRONT, then mixbit front FRONT --budget bitops=4x4 --take RUN."
        )
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
    settings, own = facts.get("settings", {}), Subject(model=found.model, data=found.data, seed=found.seed)
    return TrainedRun(task=task, subject=subject, policy=policy, path=path, trained_on=own, settings=settings)
