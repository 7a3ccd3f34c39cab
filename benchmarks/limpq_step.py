"""Cost of one joint LIMPQ step with five bit-widths (six passes) in eager float steps: ResNet-20, batch 128.

python benchmarks/limpq_step.py [--rounds 8] [--threads 1]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from common import write_result
from mixbit import models
from mixbit._optim import make_optimizer
from mixbit._switchable import make_switchable, norms_after_layers
from mixbit.data import TensorSplit
from mixbit.methods.limpq import Limpq, _JointStep, calibrate_indicators, prepare
from mixbit.task import Task, cross_entropy
from mixbit.training import StepContext
from qat_step import BATCH, add_ratios, make_step, profile, time_steps


def joint_step(task: Task, x: Tensor, y: Tensor) -> Any:
    """The search's own step with its own optimizer."""
    settings = Limpq()
    model, searched = prepare(task, settings)
    after = norms_after_layers(model, task.example())
    make_switchable(model, after, len(settings.bits))
    calibrate_indicators(model, task, settings, after)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    step = _JointStep(model, searched, after, settings)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    pixels, y = torch.randint(0, 256, (BATCH, 3, 32, 32)).to(torch.uint8), torch.randint(0, 10, (BATCH,))
    split = TensorSplit(pixels, y, 10, [0.5] * 3, [0.25] * 3)
    x = next(split.batches(BATCH))[0].to(memory_format=torch.channels_last)
    model = models.build("resnet20").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = Task(model=model, train=split, test=split)
    joint = joint_step(task, x, y)
    table = time_steps({"float32": make_step(model, x, y), "joint, six passes": joint}, arguments.rounds)
    add_ratios(table, "float32")
    path = write_result("limpq_step", {"batch": BATCH, "steps": table, "profile": profile(joint)}, seed=0)
    print(f"written to {path}")
    for name, row in table.items():
        print(f"{name:20s} {row['cpu_ms_min']:8.1f} ms CPU   {row['ratio']:.3f}")


if __name__ == "__main__":
    main()
