"""The real result: ResNet-20 on CIFAR-10, LIMPQ against uniform, random and untrained policies at equal BitOps.

    python benchmarks/cifar10_resnet20.py [--epochs 5] [--seeds 0 1] [--threads 1] [--precision bf16]

Every policy is fine-tuned from the same pretrained float weights with the same settings. A run that is done is not
done again, and a killed one goes on where it was; two rows with the same bits and seed share one run. Each row says
in which precision it was trained: a machine without bf16 arithmetic takes many times as long in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from common import RESULTS, ROOT, shared_data, unpacked_data, write_result
from mixbit import data, methods, models
from mixbit.allocation import allocate
from mixbit.allocation.random_policy import random_policy
from mixbit.cost import Budget, costs
from mixbit.evaluation import evaluate
from mixbit.network import Network, capture
from mixbit.policy import Policy, Scores
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
    """All rows; the random policies last, seed by seed."""
    table = {budget: list(policies(task, budget)) for budget in BUDGETS}
    for last in (False, True):
        for seed in seeds:
            for budget in BUDGETS:
                for name, policy in table[budget]:
                    if name.startswith("random") == last:
                        yield budget, name, seed, policy


def earlier_rows(settings: dict[str, Any]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Rows of the result file that were made with the same settings, precision aside, by what they are of."""
    path = RESULTS / "cifar10_resnet20.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    rows = found.get("rows", []) if found.get("settings") == settings else []
    return {(r["budget"], r["policy"], r["seed"]): r for r in rows}


def ordered(rows: dict[tuple[str, str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """By budget, policy and seed."""
    return [rows[key] for key in sorted(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="two processes may share the seeds"
    )
    parser.add_argument("--precision", choices=["bf16", "float32"], default="bf16", help="of rows that are missing")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset, model = data.load(f"cifar10:{unpacked_data()}"), float_model()
    network = capture(model, next(dataset.test.batches(2))[0])
    task = Task(model=model, train=dataset.train, test=dataset.test, network=network)
    settings = asdict(TrainConfig(epochs=arguments.epochs, validate_every=0))
    del settings["precision"]  # a row has its own
    float_accuracy = evaluate(model, dataset.test).accuracy
    for budget, name, seed, policy in plan(task, arguments.seeds):
        bits = {n: [b.weight_bits, b.activation_bits] for n, b in policy.layers.items()}
        row = earlier_rows(settings).get((budget, name, seed))
        if row is None or row["bits"] != bits:
            config = TrainConfig(**{**settings, "seed": seed, "precision": arguments.precision})
            found = fine_tune(policy, network, dataset, config)
            used = costs(network, policy.layers)
            row = {"budget": budget, "policy": name, "seed": seed, "precision": config.precision, **found}
            row |= {"bitops": used.bitops}
            row |= {"weight_bytes": used.weight_bytes, "bits": bits}
        # Read again: another process may have added rows meanwhile.
        rows = earlier_rows(settings) | {(budget, name, seed): row}
        payload = {"float_accuracy": float_accuracy, "settings": settings, "rows": ordered(rows)}
        path = write_result("cifar10_resnet20", payload, seed=sorted({r["seed"] for r in rows.values()}))
        print({k: v for k, v in row.items() if k != "bits"}, flush=True)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
