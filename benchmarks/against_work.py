"""What `against.py` times, written with names that older commits have as well. Run by it, one workload a process:

    PYTHONPATH=TREE/src python benchmarks/against_work.py WORKLOAD REPEATS [small]

prints the CPU seconds of each of REPEATS runs after one that is not counted, or what is counted otherwise. `small` has
the allocation of a small network, for a smoke run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import mixbit
from mixbit import Task, data, models
from mixbit._heap import keep_freed_memory

Run = Callable[[], Any]


def _split(images: int) -> data.TensorSplit:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32)).to(torch.uint8)
    return data.TensorSplit(pixels, torch.randint(0, 10, (images,)), 10, [0.5] * 3, [0.25] * 3)


def _task(images: int, name: str = "resnet20") -> Task:
    split = _split(images)
    return Task(model=models.build(name).to(memory_format=torch.channels_last), train=split, test=split)


def allocation(name: str = "resnet50", pixels: int = 224) -> Run:
    """Six bit-widths a side, one limit by dynamic programming and two by HiGHS."""
    model, split = models.build(name), _split(2)
    network = mixbit.capture(model, torch.zeros(2, 3, pixels, pixels))
    task = Task(model=model, train=split, test=split, network=network)
    scores = mixbit.methods.make("random", {"bits": [2, 3, 4, 5, 6, 8]}).search(task)
    one, two = mixbit.Budget.parse(["bitops=4x4"]), mixbit.Budget.parse(["bitops=4x4", "weight-bytes=12MB"])

    def run() -> None:
        for budget in (one, two):
            mixbit.allocate(network, scores, budget)

    return run


def _qat(compiled: bool) -> Run:
    """Eight steps of 128 images at W4A4, loader and loop included."""
    task = _task(1024)
    mixbit.quantize(task.model, mixbit.Policy.uniform(task.network, 4, 4), task.network)
    mixbit.calibrate(task.model, [next(task.train.batches(128))[0]])
    config = mixbit.TrainConfig(epochs=1, batch_size=128, lr=1e-4, bn_samples=0, compile=compiled)
    return lambda: mixbit.train(task.model, task.train, None, config, quiet=True)


def limpq() -> Run:
    """Two joint steps, of six passes each."""
    method = mixbit.methods.make("limpq", {"epochs": 1, "fraction": 0.25})
    task = _task(1024)
    return lambda: method.search(task, quiet=True)


def topological_entropy() -> Run:
    """64 images through all maps of ResNet-20."""
    method = mixbit.methods.make("topological-entropy", {"images": 64, "label": "mixed"})
    task = _task(64)
    return lambda: method.search(task, quiet=True)


def capture() -> Run:
    """ResNet-50."""
    model = models.build("resnet50")
    return lambda: mixbit.capture(model, torch.zeros(2, 3, 224, 224))


def instructions() -> Run:
    """Of the C of a small network on an emulated Cortex-M4, by product: a count, no time."""
    from mixbit.export import lower
    from mixbit.export.c import COptions
    from mixbit.export.mcu import count

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 64, 10),
    ).eval()  # fmt: skip
    x = torch.randn(4, 3, 8, 8)
    network = mixbit.capture(model, x)
    mixbit.quantize(model, mixbit.Policy.uniform(network, 4, 8), network)
    mixbit.calibrate(model, [x])
    graph = lower(model, network, [x], rounding="single")
    products = sum(layer.macs for layer in network.layers)

    def run() -> float:
        found = count(graph, options=COptions(kernels="dsp"))
        return sum(layer.instructions for layer in found.layers) / products

    return run


WORKLOADS: dict[str, Callable[[], Run]] = {
    "allocation": allocation,
    "QAT step": lambda: _qat(compiled=False),
    "QAT step, compiled": lambda: _qat(compiled=True),
    "LIMPQ's joint step": limpq,
    "topological entropy": topological_entropy,
    "capture": capture,
    "instructions per product": instructions,
}


def main(name: str, repeats: int, *, small: bool = False) -> None:
    """Print what was found as JSON."""
    keep_freed_memory()
    torch.set_num_threads(1)
    run, found = allocation("resnet20", 32) if small else WORKLOADS[name](), []
    run()
    for _ in range(repeats):
        begin = time.process_time()
        result = run()
        found.append(result if isinstance(result, float) else time.process_time() - begin)
    print(json.dumps({"mixbit": mixbit.__file__, "found": found}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), small="small" in sys.argv[3:])
