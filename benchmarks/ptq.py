"""Post-training quantization of ResNet-20 on CIFAR-10: accuracy on the test images, and what each method takes.

    python benchmarks/ptq.py [--methods minmax mse lp lapq] [--settings W4A4 W4 W3] [--samples 512] [--test-images 2000]

The first and the last layer have 8 bits. A setting such as W4 leaves inputs in float. Rows that are in the result file
already, of the same number of test images, are not measured again.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from typing import Any

import torch

from common import RESULTS, shared_data, unpacked_data, write_result
from mixbit import data, models
from mixbit.cost import LayerBits
from mixbit.data import Part
from mixbit.evaluation import evaluate
from mixbit.policy import Policy
from mixbit.ptq import PTQConfig, ptq
from mixbit.task import Task

ROW = ("method", "setting", "bias_correction", "samples")


def task_of(test_images: int) -> Task:
    """ResNet-20 with pretrained weights, on the first test images."""
    zoo = models.info("resnet20")
    model = models.build("resnet20")
    models.load_weights(model, shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors")
    found = data.load(f"cifar10:{unpacked_data()}", mean=zoo.mean, std=zoo.std)
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
        "method": method,
        "setting": setting,
        "bias_correction": correct,
        "samples": samples,
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
    args = parser.parse_args()
    torch.set_num_threads(1)
    task, path = task_of(args.test_images), RESULTS / "ptq.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    same = old.get("test_images") == args.test_images
    rows: list[dict[str, Any]] = old["rows"] if same else []
    reference = old["float_accuracy"] if same else evaluate(task.model, task.test).accuracy
    for setting in args.settings:
        for method in args.methods:
            wanted = (method, setting, args.bias_correction, args.samples)
            if any(tuple(row[key] for key in ROW) == wanted for row in rows):
                continue
            rows.append(measure(task, *wanted))
            print({key: rows[-1][key] for key in (*ROW, "accuracy", "chosen", "cpu_seconds")}, flush=True)
            payload = {"test_images": args.test_images, "float_accuracy": reference, "rows": rows}
            write_result("ptq", payload, seed=0)


if __name__ == "__main__":
    main()
