"""The real result: ResNet-20 on CIFAR-10, LIMPQ against uniform, random and untrained policies at equal BitOps.

    python benchmarks/cifar10_resnet20.py [--epochs 5] [--seeds 0 1] [--threads 1] [--precision bf16]

Every policy is fine-tuned from the same pretrained float weights with the same settings. Rows that the result file has
are reused, and the command says which; a killed training goes on where it was; two rows with the same bits and seed
share one run. Each row says in which precision it was trained: a machine without bf16 arithmetic takes far
longer in it. A row takes half an hour of one core to an hour.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import records
from common import RESULTS, ROOT, cifar10, cifar10_folder, shared_data
from mixbit import data, methods, models
from mixbit.allocation import allocate
from mixbit.allocation.random_policy import random_policy
from mixbit.cost import Budget, costs
from mixbit.data import Part
from mixbit.evaluation import evaluate
from mixbit.network import capture
from mixbit.policy import Policy, Scores
from mixbit.quantization import calibrate, quantize
from mixbit.task import Task
from mixbit.training import TrainConfig, train

RUNS = ROOT / "runs" / "cifar10_resnet20"
BUDGETS = ("2x2", "3x3", "4x4")
RANDOM_DRAWS = 3
WEIGHTS = "cifar10_resnet20_akamaster.safetensors"


def float_model() -> Any:
    """ResNet-20 with the pretrained weights."""
    model = models.build("resnet20")
    models.load_weights(model, shared_data() / "weights" / WEIGHTS)
    return model


def scores_of(name: str, task: Task) -> Scores:
    """Scores of one method, made once and kept beside the results: rows of one file belong to one search."""
    path = RESULTS / f"cifar10_resnet20_scores_{name}.json"
    if not path.exists():
        settings = {"seed": 0, "precision": "bf16"} if name == "limpq" else {"seed": 0}
        (RUNS / name).mkdir(parents=True, exist_ok=True)
        methods.make(name, settings).search(task, run=RUNS / name).save(path)
    return Scores.load(path)


def policies(task: Task, budget: str) -> Iterator[tuple[str, Policy]]:
    """Row name -> policy, all within the BitOps of the uniform one."""
    limit = Budget.parse([f"bitops={budget}"])
    bits = int(budget[0])
    yield "uniform", Policy.uniform(task.network, bits, bits)
    yield "limpq", allocate(task.network, scores_of("limpq", task), limit)[0]
    yield "limpq-init", allocate(task.network, scores_of("limpq-init", task), limit)[0]
    for draw in range(RANDOM_DRAWS):
        yield f"random-{draw}", random_policy(task.network, limit, bits=(2, 3, 4, 5, 6), seed=draw)


MADE: dict[str, dict[str, Any]] = {}
"""What this process trained, by bits, seed and settings: rows of the same bits share it."""


def fine_tune(policy: Policy, task: Task, config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Accuracy after calibration alone and after fine-tuning. A training that was killed goes on where it was."""
    key = "_".join(f"{b.weight_bits}{b.activation_bits}" for b in policy.layers.values())
    folder = folder / f"{key}_s{config.seed}_e{config.epochs}_{config.precision}"
    if folder.name in MADE:
        return MADE[folder.name]
    folder.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(task.model)
    quantize(model, policy, task.network)
    calibrate(model, [next(task.train.batches(256, seed=config.seed, shuffle=True))[0]])
    before = evaluate(model, task.test, channels_last=True).accuracy
    result = train(model, task.train, task.test, config, run=folder, label=key[:20])
    assert result.metrics is not None
    MADE[folder.name] = {
        "accuracy": result.metrics.accuracy,
        "calibrated_accuracy": before,
        "seconds": sum(r["seconds"] for r in result.history),
    }
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return MADE[folder.name]


def plan(task: Task, seeds: list[int], budgets: tuple[str, ...]) -> Iterator[tuple[str, str, int, Policy]]:
    """All rows; the random policies last, seed by seed."""
    table = {budget: list(policies(task, budget)) for budget in budgets}
    for last in (False, True):
        for seed in seeds:
            for budget in budgets:
                for name, policy in table[budget]:
                    if name.startswith("random") == last:
                        yield budget, name, seed, policy


def name_of(budget: str, policy: str, seed: int, bits: Policy) -> dict[str, Any]:
    """What tells a row from the others; other scores give other bits, and so another row."""
    layers = {name: [b.weight_bits, b.activation_bits] for name, b in bits.layers.items()}
    return {"budget": budget, "policy": policy, "seed": seed, "bits": layers}


def subject(*, smoke: bool) -> Task:
    """The pretrained network on CIFAR-10; a part of the images for a smoke run."""
    dataset, model = data.load(cifar10()), float_model()
    network = capture(model, next(dataset.test.batches(2))[0])
    parts = [dataset.train, dataset.test]
    if smoke:
        parts = [Part(split, torch.arange(32)) for split in parts]
    return Task(model=model, train=parts[0], test=parts[1], network=network)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="two processes may share the seeds"
    )
    parser.add_argument("--precision", choices=["bf16", "float32"], default="bf16", help="of rows that are missing")
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    task = subject(smoke=given.smoke)
    length = {"epochs": 1, "batch_size": 32} if given.smoke else {"epochs": given.epochs}
    settings = asdict(TrainConfig(**length, validate_every=0))
    for own in ("precision", "seed", "checkpoint_seconds"):  # a row has its own, or they change no number
        del settings[own]
    results = records.Results(
        "cifar10_resnet20", settings=settings, inputs=inputs(), fresh=given.fresh, smoke=given.smoke
    )
    rows = list(plan(task, given.seeds, BUDGETS)) if not given.smoke else list(plan(task, [0], BUDGETS[1:2]))[:2]
    results.plan([name_of(*row) for row in rows])
    results.facts(float_accuracy=evaluate(task.model, task.test).accuracy, settings=settings)
    for row in rows:
        config = TrainConfig(**settings, seed=row[2], precision="float32" if given.smoke else given.precision)
        results.row(name_of(*row), lambda row=row, config=config: values(row[3], task, config, given))  # type: ignore[misc]


def inputs() -> dict[str, Path]:
    """What goes in: weights and images."""
    return {
        "weights": shared_data() / "weights" / WEIGHTS,
        "data": cifar10_folder(),
    }


def values(policy: Policy, task: Task, config: TrainConfig, given: argparse.Namespace) -> dict[str, Any]:
    """Of one row."""
    used = costs(task.network, policy.layers)
    found = fine_tune(policy, task, config, (records.SMOKE if given.smoke else RUNS) / "fine-tune")
    return {"precision": config.precision, **found, "bitops": used.bitops, "weight_bytes": used.weight_bytes}


if __name__ == "__main__":
    main()
