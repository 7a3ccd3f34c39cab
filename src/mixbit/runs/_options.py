"""Settings of a training that concern other rooms than the training loop: `kurtosis` and `quantize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixbit._settings import read
from mixbit.data import hold_out
from mixbit.evaluation import evaluate
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig
from mixbit.task import Task
from mixbit.training import KurtosisConfig, KurtosisMonitor, KurtosisPenalty, TrainConfig

KURTOSIS, QUANTIZE = "kurtosis", "quantize"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A training's settings, each in the hands of its room."""

    training: TrainConfig
    kurtosis: KurtosisConfig | None
    quantize: QuantizeConfig


def read_options(settings: Mapping[str, Any], seed: int) -> Options:
    """Sort the settings of `mixbit train`; an unknown key is an error that offers the nearest legal one."""
    rest = {key: value for key, value in settings.items() if key not in (KURTOSIS, QUANTIZE)}
    return Options(
        training=TrainConfig.from_dict({"seed": seed, **rest}),
        kurtosis=KurtosisConfig.from_setting(settings.get(KURTOSIS)),
        quantize=quantize_config(settings),
    )


def quantize_config(settings: Mapping[str, Any]) -> QuantizeConfig:
    """How layers are quantized, by the setting `quantize`: an object of `QuantizeConfig`'s names."""
    return read(QuantizeConfig, settings.get(QUANTIZE, {}), room=QUANTIZE)


def regularised(task: Task, config: KurtosisConfig | None, policy: Policy | None = None) -> Task:
    """The task with the term in its loss, if there is one."""
    return task if config is None else replace(task, penalty=KurtosisPenalty(task, config, policy))


def watched(task: Task, config: KurtosisConfig | None, run: Path, seed: int) -> tuple[Task, KurtosisMonitor | None]:
    """The task with what the stopping rule leaves to train on, and the monitor of its kurtosis."""
    if config is None or not isinstance(task.penalty, KurtosisPenalty):
        return task, None
    if not config.stop:
        return task, KurtosisMonitor(task.penalty, None, 0.0, run)
    train, held_out = hold_out(task.train, config.held_out, seed=seed)
    start = evaluate(task.model, held_out, loss=task.objective).value
    return replace(task, train=train), KurtosisMonitor(task.penalty, held_out, start, run, task.objective)
