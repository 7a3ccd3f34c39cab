"""Post-training quantization of ResNet-20 on CIFAR-10: accuracy on the test images, and what each method takes.

    python benchmarks/ptq.py [--methods minmax mse lp lapq] [--settings W4A4 W4 W3] [--samples 512] [--test-images 2000]

The first and the last layer have 8 bits. A setting such as W4 leaves inputs in float. Rows that are in the result file
with the same key (see `records`) are reused. A row takes seconds to minutes of one core.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import Any

import torch

import records
from common import cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit.cost import LayerBits
from mixbit.data import Part
from mixbit.evaluation import evaluate
from mixbit.policy import Policy
from mixbit.ptq import PTQConfig, ptq
from mixbit.task import Task

WEIGHTS = "cifar10_resnet20_akamaster.safetensors"


def task_of(test_images: int) -> Task:
    """ResNet-20 with pretrained weights, on the first test images."""
    zoo = models.info("resnet20")
    model = models.build("resnet20")
    models.load_weights(model, shared_data() / "weights" / WEIGHTS)
    found = data.load(cifar10(), mean=zoo.mean, std=zoo.std)
    return Task(model=model.eval(), train=found.train, test=Part(found.test, torch.arange(test_images)))


def policy_of(task: Task, setting: str) -> Policy:
    """W4A4, or W4 with inputs in float."""
    match = re.fullmatch(r"W(\d)(?:A(\d))?", setting)
    if match is None:
        raise SystemExit(f"{setting!r} is no setting. Legal: W4A4, W4, ...")
    weight, inputs = int(match[1]), match[2] and int(match[2])
    ends = {
        layer.name: LayerBits(8, 8 if inputs else None) for layer in (task.network.layers[0], task.network.layers[-1])
    }
    return Policy.uniform(task.network, weight, inputs or None, ends)


def measure(task: Task, method: str, setting: str, correct: bool, samples: int) -> dict[str, Any]:
    """One row."""
    config = PTQConfig(method=method, bias_correction=correct, samples=samples)  # type: ignore[arg-type]
    policy = policy_of(task, setting)
    began, cpu = time.perf_counter(), time.process_time()
    result = ptq(task, policy, config, quiet=True)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    return {
        "accuracy": evaluate(result.model, task.test).accuracy,
        "chosen": result.chosen,
        "p": result.p,
        "evaluations": result.evaluations,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "unknowns": len(result.steps),
        "stages": [
            {
                "name": s.name,
                "calibration_loss": s.calibration_loss,
                "loss": s.loss,
                "accuracy": s.accuracy,
                "evaluations": s.evaluations,
            }
            for s in result.stages
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--methods", nargs="+", default=["minmax", "mse", "lp"])
    parser.add_argument("--settings", nargs="+", default=["W4", "W3", "W4A4"])
    parser.add_argument("--bias-correction", action="store_true")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=512)
    records.arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.smoke:
        args.methods, args.settings, args.samples, args.test_images = ["mse"], ["W4"], 32, 64
    task = task_of(args.test_images)
    inputs = {"weights": shared_data() / "weights" / WEIGHTS, "data": cifar10_folder()}
    results = records.Results("ptq", inputs=inputs, libraries=("torch", "scipy"), fresh=args.fresh, smoke=args.smoke)
    reference = {"method": "float", "test_images": args.test_images}
    results.row(reference, lambda: {"accuracy": evaluate(task.model, task.test).accuracy})
    names = [
        {
            "method": method,
            "setting": setting,
            "bias_correction": args.bias_correction,
            "samples": args.samples,
            "test_images": args.test_images,
        }
        for setting in args.settings
        for method in args.methods
    ]
    results.plan(names)
    for of in names:
        wanted = (of["method"], of["setting"], of["bias_correction"], of["samples"])
        row = results.row(of, lambda wanted=wanted: measure(task, *wanted))  # type: ignore[misc]
        print({key: row[key] for key in ("accuracy", "chosen", "cpu_seconds")}, flush=True)


if __name__ == "__main__":
    main()
