"""Cost of one joint LIMPQ step with five bit-widths (six passes) in eager float steps: ResNet-20, batch 128.

    python benchmarks/limpq_step.py [--rounds 8] [--threads 1] [--fresh | --smoke]

Both take turns, with the memory settings of the command line, as in `qat_step.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import records
from mixbit import models
from mixbit._heap import keep_freed_memory
from mixbit.data import TensorSplit
from mixbit.methods.limpq import Limpq, _JointStep, calibrate_indicators, prepare
from mixbit.supernet import make_switchable
from mixbit.task import Task, cross_entropy
from mixbit.training import StepContext
from mixbit.training._optim import make_optimizer
from qat_step import BATCH, add_ratios, make_step, profile, show, time_steps


def joint_step(task: Task, x: Tensor, y: Tensor) -> Any:
    """The search's own step with its own optimizer."""
    settings = Limpq()
    model, searched = prepare(task, settings)
    make_switchable(model, task.example())
    calibrate_indicators(model, task, settings)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    step = _JointStep(model, searched, settings)
    rates = {"lr": 1e-4, "step_lr": 1e-4, "momentum": 0.9, "weight_decay": 2.5e-5}
    optimizer = make_optimizer(model, name="sgd", **rates)  # type: ignore[arg-type]
    context = StepContext(model=model, loss=lambda _x, out, t: cross_entropy(out, t), forward=lambda z: model(z))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        step(context, x, y)
        torch.nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimizer.step()
        context.number += 1

    return run


class Bench:
    """The float step and the joint one."""

    def __init__(self, batch: int, rounds: int) -> None:
        self.batch, self.rounds = batch, rounds

    @cached_property
    def steps(self) -> dict[str, Callable[[], None]]:
        """On one batch of random images."""
        torch.manual_seed(0)
        pixels = torch.randint(0, 256, (self.batch, 3, 32, 32)).to(torch.uint8)
        y = torch.randint(0, 10, (self.batch,))
        split = TensorSplit(pixels, y, 10, [0.5] * 3, [0.25] * 3)
        x = next(split.batches(self.batch))[0].to(memory_format=torch.channels_last)
        model = models.build("resnet20").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        task = Task(model=model, train=split, test=split)
        return {"joint, six passes": joint_step(task, x, y), "float32": make_step(model, x, y)}

    def table(self) -> dict[str, dict[str, Any]]:
        """Both in turns."""
        table = time_steps({name: self.steps[name] for name in ("float32", "joint, six passes")}, self.rounds)
        add_ratios(table, "float32")
        show(table)
        return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    batch, rounds = (4, 1) if given.smoke else (BATCH, given.rounds)
    settings = {"batch": batch, "rounds": rounds, "threads": given.threads, "memory": "kept"}
    results = records.Results("limpq_step", settings=settings, fresh=given.fresh, smoke=given.smoke)
    bench = Bench(batch, rounds)
    if results.plan(["steps", "profile"]):
        results.facts(batch=batch)
    results.part("steps", bench.table)
    results.part("profile", lambda: profile(bench.steps["joint, six passes"]))


if __name__ == "__main__":
    main()
