"""The real result: ResNet-20 on CIFAR-10, LIMPQ against uniform, random and untrained policies at equal BitOps.

    python benchmarks/cifar10_resnet20.py [--epochs 5] [--seeds 0 1]

Every policy is fine-tuned from the same pretrained float weights with the same settings. A run that is done is not done again,
and a killed one goes on where it was; two rows with the same bits and seed share one run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, shared_data, unpacked_data, write_result

from mixbit import data, methods, models
from mixbit.allocation import allocate
from mixbit.allocation.random_policy import random_policy
from mixbit.cost import Budget, costs
from mixbit.evaluation import evaluate
from mixbit.network import Network, capture
from mixbit.policy import Policy, Scores, resolve_pins
from mixbit.quantize import calibrate, quantize
from mixbit.task import Task
from mixbit.training import TrainConfig, train

RUNS = ROOT / "runs" / "cifar10_resnet20"
BUDGETS = ("2x2", "3x3", "4x4")
RANDOM_DRAWS = 3


def float_model() -> Any:
    """ResNet-20 with the pretrained weights."""
    model = models.build("resnet20")
    models.load_weights(model, shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors")
    return model


def scores_of(name: str, task: Task) -> Scores:
    """Scores of one method, made once."""
    path = RUNS / name / "scores.json"
    if not path.exists():
        settings = {"seed": 0, "precision": "bf16"} if name == "limpq" else {"seed": 0}
        path.parent.mkdir(parents=True, exist_ok=True)
        methods.make(name, settings).search(task, run=path.parent).save(path)
    return Scores.load(path)


def policies(task: Task, budget: str) -> Iterator[tuple[str, Policy]]:
    """Row name -> policy, all within the BitOps of the uniform one."""
    limit = Budget.parse([f"bitops={budget}"])
    bits = int(budget[0])
    yield "uniform", Policy.uniform(task.network, bits, bits, resolve_pins(task.network))
    yield "limpq", allocate(task.network, scores_of("limpq", task), limit)[0]
    yield "limpq-init", allocate(task.network, scores_of("limpq-init", task), limit)[0]
    for draw in range(RANDOM_DRAWS):
        yield f"random-{draw}", random_policy(task.network, limit, bits=(2, 3, 4, 5, 6), seed=draw)


def fine_tune(policy: Policy, network: Network, dataset: data.DataSet, config: TrainConfig) -> dict[str, Any]:
    """Accuracy after calibration alone and after fine-tuning; remembered by bits and seed."""
    key = "_".join(f"{b.weight_bits}{b.activation_bits}" for b in policy.layers.values()) + f"_s{config.seed}"
    folder = RUNS / "fine-tune" / key
    done = folder / "result.json"
    if done.exists():
        return dict(json.loads(done.read_text()))
    folder.mkdir(parents=True, exist_ok=True)
    model = float_model()
    quantize(model, policy, network)
    calibrate(model, [next(dataset.train.batches(256, seed=config.seed, shuffle=True))[0]])
    before = evaluate(model, dataset.test, channels_last=True).accuracy
    result = train(model, dataset.train, dataset.test, config, run=folder, label=key[:20])
    assert result.metrics is not None
    found = {
        "accuracy": result.metrics.accuracy,
        "calibrated_accuracy": before,
        "seconds": sum(r["seconds"] for r in result.history),
    }
    done.write_text(json.dumps(found))
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return found


def plan(task: Task, seeds: list[int]) -> Iterator[tuple[str, str, int, Policy]]:
    """All rows, the first seed's first."""
    table = {budget: list(policies(task, budget)) for budget in BUDGETS}
    for seed in seeds:
        for budget in BUDGETS:
            for name, policy in table[budget]:
                yield budget, name, seed, policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    dataset, model = data.load(f"cifar10:{unpacked_data()}"), float_model()
    network = capture(model, next(dataset.test.batches(2))[0])
    task = Task(model=model, train=dataset.train, test=dataset.test, network=network)
    settings = TrainConfig(epochs=arguments.epochs, precision="bf16", validate_every=0)
    rows: list[dict[str, Any]] = []
    for budget, name, seed, policy in plan(task, arguments.seeds):
        config = TrainConfig(**{**asdict(settings), "seed": seed})
        bits = {n: [b.weight_bits, b.activation_bits] for n, b in policy.layers.items()}
        used = costs(network, policy.layers)
        rows.append(
            {"budget": budget, "policy": name, "seed": seed, **fine_tune(policy, network, dataset, config)}
            | {"bitops": used.bitops, "weight_bytes": used.weight_bytes, "bits": bits}
        )
        print({k: v for k, v in rows[-1].items() if k != "bits"}, flush=True)
        payload = {"float_accuracy": evaluate(model, dataset.test).accuracy, "settings": asdict(settings), "rows": rows}
        write_result("cifar10_resnet20", payload, seed=arguments.seeds)
    print(f"written to {RESULTS / 'cifar10_resnet20.json'}")


if __name__ == "__main__":
    main()
