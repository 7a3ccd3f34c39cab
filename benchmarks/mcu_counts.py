"""Instruction tables of an emulated core: how well sums of layers predict whole networks that no table was made of.

    python benchmarks/mcu_counts.py [--core cortex-m4] [--bits 2,4,8] [--policies 4] [--fresh | --smoke]

One table of ResNet-20 at all pairs of bits. It is checked on random policies of ResNet-20, and then predicts ResNet-32
and ResNet-56, which it has never seen, from its kernels. DS-CNN has a table of its own. Needs `make setup-mcu`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import records
from latency import OTHERS, Subject
from mixbit.cost import LatencyTable
from mixbit.export.mcu.target import BoardTarget
from mixbit.latency.tables import build, estimate, options_of, random_bits

NETWORKS = ("resnet20", "ds-cnn")
SMOKE = "ad-autoencoder"
"""The smallest network, at 8 bits, is what a smoke run counts."""


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
            _row(policy, estimate(table, graph, target), measured[policy].median) for policy, graph in graphs.items()
        ]
        found[name] = {"policies": rows, "largest_error_percent": _largest(rows)}
        print(name, found[name]["largest_error_percent"], flush=True)
    return found


def _row(policy: str, predicted: int, measured: int) -> dict[str, Any]:
    error = round(100 * (predicted / measured - 1), 3)
    return {"policy": policy, "predicted": predicted, "measured": measured, "error_percent": error}


def _largest(rows: list[dict[str, Any]]) -> float:
    return max(abs(row["error_percent"]) for row in rows)


def parts_of(name: str) -> list[str]:
    """Parts of the result file that one table gives."""
    return [f"networks.{name}", *(["other_networks"] if name == NETWORKS[0] else [])]


def measured(name: str, target: BoardTarget, bits: tuple[int, ...], policies: int) -> dict[str, Any]:
    """The parts of one network."""
    subject, started = Subject.of(name, "single"), time.perf_counter()
    table = measure(subject, target, bits, policies)
    values: list[Any] = [summary(table, bits, time.perf_counter() - started)]
    print(name, values[0]["largest_error_percent"], flush=True)
    if name == NETWORKS[0]:
        values.append(others(table, target, bits, policies))
    return dict(zip(parts_of(name), values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", default="cortex-m4")
    parser.add_argument("--bits", default="2,4,8")
    parser.add_argument("--policies", type=int, default=4)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    target = BoardTarget(core=given.core)
    bits = (8,) if given.smoke else tuple(map(int, given.bits.split(",")))
    policies, names = (1, (SMOKE,)) if given.smoke else (given.policies, NETWORKS)
    settings = {"core": given.core, "tools": target.runtime_version, "bits": list(bits), "policies": policies}
    results = records.Results("mcu_counts", settings=settings, fresh=given.fresh, smoke=given.smoke)
    if results.plan([path for name in names for path in parts_of(name)]):
        results.facts(core=given.core, tools=target.runtime_version, bits=list(bits))
    for name in names:
        results.parts(parts_of(name), lambda name=name: measured(name, target, bits, policies))  # type: ignore[misc]


if __name__ == "__main__":
    main()
