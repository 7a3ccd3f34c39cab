"""What it takes to switch bits, and to mix them in one batch.

    python benchmarks/selection.py [--rounds 20] [--batch 128] [--fresh | --smoke]

Switching: CPU time of one `select` of all layers of ResNet-50, banks and norms of several bit-widths. Mixing: a forward
and backward pass of ResNet-20 at one bit-width, and with two in the batch, samples in any order or those of equal bits
beside each other; all take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import records
from mixbit import models, select
from mixbit._heap import keep_freed_memory
from mixbit.cost import LayerBits
from mixbit.network import capture
from mixbit.quantization import attach, calibrate, quantized_layers
from mixbit.supernet import PerSample, make_switchable

BITS = (2, 4, 8)


def network(name: str, size: int, norms: str, bits: tuple[int, ...], batch: int) -> tuple[nn.Module, torch.Tensor]:
    """With banks on all layers, and norms of their own where asked for."""
    torch.manual_seed(0)
    model = models.build(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    found = capture(model, x[:2])
    attach(model, found, {layer.name: (bits, bits) for layer in found.layers})
    make_switchable(model, x[:2], norms)  # type: ignore[arg-type]
    return model, x


def switching(norms: str, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of a switch of ResNet-50, to one bit-width and to bits of each layer."""
    model, _ = network("resnet50", 224, norms, BITS, 2)
    policies = [{name: LayerBits(w, a) for name in quantized_layers(model)} for w, a in ((4, 8), (8, 2))]
    calls: dict[str, list[Any]] = {"uniform": list(BITS), "a layer": policies}
    row: dict[str, Any] = {}
    for name, choices in calls.items():
        select(model, choices[0])
        times = []
        for _ in range(rounds):
            begin = time.process_time()
            for choice in choices:
                select(model, choice)
            times.append((time.process_time() - begin) * 1e3 / len(choices))
        row[name] = {"ms": statistics.median(times), "most_ms": max(times)}
    return row


def mixing(norms: str, batch: int, rounds: int) -> dict[str, Any]:
    """Steps of ResNet-20 with two bit-widths in the batch, beside steps of one."""
    model, x = network("resnet20", 32, norms, BITS[:2], batch)
    calibrate(model, [x])
    model.train()
    y = torch.randint(10, (batch,), generator=torch.Generator().manual_seed(1))
    order = torch.randint(2, (batch,), generator=torch.Generator().manual_seed(2)) * 2 + 2
    layers = list(quantized_layers(model))

    def samples(bits: torch.Tensor) -> PerSample:
        return PerSample(layers, bits[:, None].expand(-1, len(layers)))

    variants: dict[str, Any] = {
        "one bit-width": 4,
        "two, in any order": samples(order),
        "two, beside each other": samples(order.sort().values),
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, choice in variants.items():
            select(model, choice)
            times[name].append(_timed(lambda: F.cross_entropy(model(x), y).backward()))
            model.zero_grad(set_to_none=True)
    base = times["one bit-width"]
    return {
        name: {
            "cpu_ms": found,
            "cpu_ms_median": statistics.median(found),
            "ratio_in_pairs": statistics.median(one / other for one, other in zip(found, base, strict=True)),
        }
        for name, found in times.items()
    }


def _timed(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return (time.process_time() - begin) * 1e3


def main() -> None:
    """Measure, and write parts by what they are of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    records.arguments(parser)
    args = parser.parse_args()
    rounds, batch = (2, 4) if args.smoke else (args.rounds, args.batch)
    keep_freed_memory()
    torch.set_num_threads(1)
    results = records.Results(
        "selection",
        settings={"rounds": rounds, "batch": batch},
        libraries=("torch",),
        fresh=args.fresh,
        smoke=args.smoke,
    )
    for norms in ("shared", "bits"):
        results.part(f"mixing.{norms}", lambda of=norms: mixing(of, batch, rounds))
        if not args.smoke:
            results.part(f"switching.{norms}", lambda of=norms: switching(of, 5 * rounds))


if __name__ == "__main__":
    main()
