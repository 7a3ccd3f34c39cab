"""Instruction tables of an emulated core: how well sums of layers predict whole networks that no table was made of.

    python benchmarks/mcu_counts.py [--core cortex-m4] [--bits 2,4,8] [--policies 4] [--quick]

One table of ResNet-20 at all pairs of bits. It is checked on random policies of ResNet-20, and then predicts ResNet-32
and ResNet-56, which it has never seen, from its kernels. DS-CNN has a table of its own. Needs `make setup-mcu`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from common import write_result
from latency import OTHERS, Subject
from mixbit.cost import LatencyTable
from mixbit.export.latency import build, options_of, predict, random_bits
from mixbit.export.mcu.target import BoardTarget

NETWORKS = ("resnet20", "ds-cnn")


def measure(subject: Subject, target: BoardTarget, bits: tuple[int, ...], policies: int) -> LatencyTable:
    """The table, checked on random policies."""
    return build(
        subject.network,
        subject.lower,
        target,
        options=options_of(bits),
        repeats=1,
        checks={f"random {seed}": random_bits(subject.network, bits, seed) for seed in range(policies)},
        tell=lambda line: print(f"{subject.name}: {line}", flush=True),
    )


def summary(table: LatencyTable, bits: tuple[int, ...], seconds: float) -> dict[str, Any]:
    """What the table says, in instructions."""
    rows = [_row(one.name, one.predicted, one.measured) for one in table.checks]
    return {
        "uniform": {str(one): table.cost(dict.fromkeys(table.layers, one)) for one in options_of(bits)},
        "rest": table.rest,
        "layers": len(table.layers),
        "kernels": len(table.kernels),
        "notes": list(table.notes),
        "held_out_policies": rows,
        "largest_error_percent": _largest(rows),
        "build_seconds": round(seconds),
    }


def others(table: LatencyTable, target: BoardTarget, bits: tuple[int, ...], policies: int) -> dict[str, Any]:
    """Networks that the table was not made of, under random policies."""
    found = {}
    for name in OTHERS:
        subject = Subject.of(name, "single")
        graphs = {f"random {seed}": subject.lower(random_bits(subject.network, bits, seed)) for seed in range(policies)}
        measured = target.time(graphs, 1)
        rows = [
            _row(policy, predict(table, graph, target), measured[policy].median) for policy, graph in graphs.items()
        ]
        found[name] = {"policies": rows, "largest_error_percent": _largest(rows)}
        print(name, found[name]["largest_error_percent"], flush=True)
    return found


def _row(policy: str, predicted: int, measured: int) -> dict[str, Any]:
    error = round(100 * (predicted / measured - 1), 3)
    return {"policy": policy, "predicted": predicted, "measured": measured, "error_percent": error}


def _largest(rows: list[dict[str, Any]]) -> float:
    return max(abs(row["error_percent"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", default="cortex-m4")
    parser.add_argument("--bits", default="2,4,8")
    parser.add_argument("--policies", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="two bit-widths, one policy, ResNet-20's table alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    target = BoardTarget(core=given.core)
    bits = (4, 8) if given.quick else tuple(map(int, given.bits.split(",")))
    policies = 1 if given.quick else given.policies
    payload: dict[str, Any] = {"core": given.core, "tools": target.runtime_version, "bits": list(bits), "networks": {}}
    for name in NETWORKS[: 1 if given.quick else None]:
        subject, started = Subject.of(name, "single"), time.perf_counter()
        table = measure(subject, target, bits, policies)
        payload["networks"][name] = summary(table, bits, time.perf_counter() - started)
        print(name, payload["networks"][name]["largest_error_percent"], flush=True)
        if name == NETWORKS[0] and not given.quick:
            payload["other_networks"] = others(table, target, bits, policies)
    if not given.quick:
        print(f"written to {write_result('mcu_counts', payload, seed=list(range(policies)))}")


if __name__ == "__main__":
    main()
