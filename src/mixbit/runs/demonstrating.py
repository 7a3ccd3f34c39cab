"""The main job on embedded data, in under four minutes on two cores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mixbit.allocation.random_policy import random_policy
from mixbit.cost import Budget, Costs, float_costs
from mixbit.policy import Policy
from mixbit.runs.allocating import allocate
from mixbit.runs.searching import search
from mixbit.runs.subject import Outcome, Subject
from mixbit.runs.training import train

__all__ = ["Demo", "demo"]

BUDGET = "bitops=3x3"
FLOAT = {"epochs": 20, "batch_size": 64, "lr": 0.05, "warmup_epochs": 1, "validate_every": 0}
SEARCH = {"epochs": 5, "batch_size": 64, "fraction": 1.0}
FINE_TUNE = {"epochs": 10, "batch_size": 64, "lr": 0.02, "validate_every": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Float, uniform, random and LIMPQ at equal BitOps."""

    outcomes: list[Outcome]
    float32: Costs
    notes: list[str]
    files: dict[Path, str]


def demo(run: Path, *, quiet: bool = False) -> Demo:
    """Train a small residual CNN on digits, search with LIMPQ, allocate at W3A3's BitOps, and fine-tune three policies.

    A demo that was stopped goes on where it was.
    """
    with _one_thread():
        return _demo(run, quiet)


@contextmanager
def _one_thread() -> Iterator[None]:
    """On images of 8 x 8 pixels two threads wait for each other more than they work, most of all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _demo(run: Path, quiet: bool) -> Demo:
    start = Subject(model="digits-resnet", data="digits")
    reached = train(start, None, FLOAT, run / "float", quiet=quiet)
    subject = replace(start, weights=reached.trained.weights)
    task, _ = subject.task()
    search(subject, "limpq", SEARCH, run / "search", task=task, quiet=quiet)
    limpq = allocate(run / "search", [BUDGET], run / "policy-limpq.json").policy
    policies = {
        "uniform W3A3": Policy.uniform(task.network, 3, 3),
        "random": random_policy(task.network, Budget.parse([BUDGET]), seed=0),
        "limpq": limpq,
    }
    outcomes = [reached.outcome]
    for name, policy in policies.items():
        folder = run / name.split()[0]
        done = train(subject, policy, FINE_TUNE, folder, task=task, quiet=quiet)
        outcomes.append(replace(done.outcome, name=name))
    return Demo(
        outcomes=outcomes,
        float32=float_costs(task.network),
        notes=[
            f"All three quantized networks had the budget {BUDGET} (what uniform W3A3 uses), the same float weights "
            "and the same fine-tuning. First and last layer are pinned at W8A8 and counted.",
            "360 test images: one image is 0.28 points, so differences of a point or less say nothing.",
        ],
        files={
            run / "policy-limpq.json": "the bits that LIMPQ chose",
            run / "search" / "scores.json": "harm of every bit-width to every layer",
            run / "limpq" / "model.safetensors": "the fine-tuned mixed-precision network",
        },
    )
