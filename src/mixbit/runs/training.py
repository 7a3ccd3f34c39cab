"""Train in float32, or fine-tune under a policy, in a run folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from mixbit import _distributed, _io
from mixbit.cost import Costs, costs, float_costs
from mixbit.evaluation import Metrics, try_out
from mixbit.models import write_weights
from mixbit.policy import Policy
from mixbit.quantization import put_policy_on
from mixbit.runs import _folder
from mixbit.runs._options import read_options
from mixbit.runs._start import Start, start_at
from mixbit.runs.subject import Outcome, Subject, further, is_run, metric_facts
from mixbit.task import Task
from mixbit.training import KurtosisMonitor, KurtosisPenalty, monitored, noise_step, regularised
from mixbit.training import train as fit

__all__ = ["Trained", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training reached, beside the float32 costs; `trained` names the network by its new weights."""

    outcome: Outcome
    float32: Costs
    files: dict[Path, str]
    trained: Subject
    notes: tuple[str, ...] = ()
    """Which layers KURE left out, and which epoch its stopping rule kept."""
    metrics: Metrics
    """Metrics of the last epoch, on the test split."""
    further: tuple[str, ...] = ()
    """The task's other metrics with their units, for people."""
    quantized: bool = False
    """Whether it has a policy."""
    began: Path | None = None
    """The float weights that it began with, or that the network which it began with began with."""


def train(
    subject: Subject,
    policy: Path | Policy | None,
    settings: Mapping[str, Any],
    run: Path,
    *,
    task: Task | None = None,
    quiet: bool = False,
) -> Trained:
    """Train from the subject's weights; the same call on the same folder continues a killed run.

    Args:
        subject: model, weights and data. The model may be the run folder of a finished training, or one that
            `mixbit.runs.take` made: its weights, bits and step sizes are then the start, and its data unless others are
            named.
        policy: bits of every layer, or None for float32, or for those of the folder.
        settings: of `mixbit.TrainConfig`; the seed is the subject's. Beside them `kurtosis`, the weight or the
            settings of `mixbit.training.KurtosisConfig`, `noise`, the name or the settings of
            `mixbit.training.NoiseConfig`, and `quantize`, those of `mixbit.QuantizeConfig`.
        run: folder for config.json, policy.json, network.json, metrics.jsonl, checkpoint and model.safetensors.
        task: the subject's, if it is at hand already.
        quiet: no progress bar.
    """
    _distributed.start()
    chosen = Policy.load(policy) if isinstance(policy, Path) else policy
    start = Start(subject=subject, policy=chosen, settings=dict(settings))
    if is_run(subject.model):
        start = start_at(subject, chosen, settings)
    subject, chosen, settings = start.subject, start.policy, start.settings
    options = read_options(settings, subject.seed)
    bits = None if chosen is None else {n: [b.weight_bits, b.activation_bits] for n, b in chosen.layers.items()}
    facts = {
        "command": "train",
        "subject": subject.to_json(),
        "content": subject.content(),
        "settings": dict(settings),
        "bits": bits,
        **({} if start.digest is None else {"start": start.digest}),
    }
    if task is None:
        task = subject.task()[0]
        try_out(task.model, task.test, task.objective, label_smoothing=options.training.label_smoothing)
    chosen = None if chosen is None else chosen.check(task.network)
    task, step = regularised(task, options.kurtosis, chosen), noise_step(task, options.noise)
    _folder.begin(run, facts | metric_facts(task))  # after all that a typo can break: it must not claim the folder
    task, monitor = monitored(task, options.kurtosis, run, subject.seed)
    model = copy.deepcopy(task.model) if start.model is None else start.model
    if chosen is not None and start.model is None:
        put_policy_on(model, chosen, task, seed=subject.seed, config=options.quantize)
    result = fit(
        model, task.train, task.test, options.training, run=run, teacher=task.model, loss=task.objective,
        step=step, penalty=task.penalty, monitor=monitor, quiet=quiet, label=run.name,
    )  # fmt: skip
    assert result.metrics is not None
    if _distributed.rank() == 0:
        _write(run, model, task, chosen)
    used = float_costs(task.network) if chosen is None else costs(task.network, chosen.layers)
    name = "float32" if chosen is None else chosen.method
    return Trained(
        outcome=Outcome(name=name, accuracy=result.metrics.value, costs=used, metric=task.info),
        float32=float_costs(task.network),
        files=_files(run, chosen),
        trained=replace(subject, weights=run / _folder.WEIGHTS),
        notes=_notes(task.penalty, monitor),
        metrics=result.metrics,
        further=further(task, result.metrics),
        quantized=chosen is not None,
        began=subject.weights,
    )


def _notes(penalty: object, monitor: KurtosisMonitor | None) -> tuple[str, ...]:
    if not isinstance(penalty, KurtosisPenalty) or monitor is None:
        return ()
    left = "; ".join(f"{one.name} ({one.reason})" for one in penalty.skipped)
    notes = (f"KURE regularised {len(penalty.layers)} layers, all but: {left}.",)
    return notes + ((f"Kept: {monitor.kept}.",) if monitor.kept else ())


def _write(run: Path, model: nn.Module, task: Task, policy: Policy | None) -> None:
    _io.write_text(run / _folder.NETWORK, task.network.to_json())
    if policy is not None:
        policy.save(run / _folder.POLICY)
    write_weights(run / _folder.WEIGHTS, model.state_dict())


def _files(run: Path, policy: Policy | None) -> dict[Path, str]:
    files = {run / _folder.WEIGHTS: "the trained weights" + ("" if policy is None else " and step sizes")}
    if policy is not None:
        files[run / _folder.POLICY] = "the bits that it was trained with"
    files[run / _folder.METRICS] = "one line an epoch"
    return files
