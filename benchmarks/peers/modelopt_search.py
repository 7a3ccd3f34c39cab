"""NVIDIA ModelOpt's `auto_quantize` searches weight bits for our ResNet-20 under our budget, and is solved again.

    python benchmarks/peers/modelopt_search.py [--budget 10x] [--batch 256 32] [--threads 1] [--fresh | --smoke]

Its score table (squared gradient times change of the output) is made once. Two policies come of it: what ModelOpt's own
call returns (`modelopt.json`), and the proven optimum of the same table by mixbit's allocation
(`modelopt-resolved.json`). The same comparison is repeated for more budgets, through ModelOpt's own solver class, and
for a table made with smaller batches: a score is the square of a gradient of a batch mean, so larger batches make
smaller scores, and a solver has tolerances.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.opt.searcher import LPS
from subject import BITS, BUDGET, Clock, Kept, Subject, float_model, records, silent_solvers
from torch import nn

from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits
from mixbit.policy import LayerScores, Policy, Scores

STEPS = 4
ASKED = (3.2, 4.0, 5.0, 6.0, 7.0)
"""Effective weight bits of the repeated comparison."""
PACKAGES = ("nvidia-modelopt", "pulp", "torch", "numpy")
PARTS = ("images", "effective_bits_asked", "effective_bits_obtained", "objective", "cpu_seconds", "wall_seconds")
FACTOR = 1e6
"""What lifts the table above the solver's tolerances."""

Table = dict[str, dict[int, float]]
"""Layer name -> weight bits -> ModelOpt's score."""


def recipe(weight_bits: int) -> dict[str, Any]:
    """Per-channel integer weights of this width, 8-bit inputs."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": weight_bits, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
        ],
        "algorithm": "max",
    }


@dataclass(frozen=True, slots=True)
class Found:
    """One call of `auto_quantize`."""

    table: Table
    bits: dict[str, int]
    effective_bits: float
    satisfied: bool
    clock: Clock


def run(subject: Subject, effective_bits: float, batch_size: int) -> Found:
    """ModelOpt's public call, with float excluded from the choices of every layer."""
    model, clock = float_model(), Clock()
    space = {
        "module_name_patterns": ["*"],
        "quantization_formats": [recipe(bits) for bits in BITS],
        "allow_no_quant": False,
    }
    batches = subject.images(batch_size * STEPS, batch_size)
    with silent_solvers(), clock.running():
        _, state = mtq.auto_quantize(
            model,
            constraints={"effective_bits": effective_bits},
            quantization_formats=[recipe(bits) for bits in BITS],
            module_search_spaces=[space],
            data_loader=batches,
            forward_step=lambda net, batch: net(batch[0]),
            loss_func=lambda out, batch: nn.functional.cross_entropy(out, batch[1]),
            num_calib_steps=STEPS,
            num_score_steps=STEPS,
        )
    table = read_table(state["candidate_stats"], subject)
    chosen = {_layer(name): one.num_bits for name, one in state["best"]["recipe"].items()}
    obtained = state["best"]["constraints"]["effective_bits"]
    return Found(table, chosen, obtained, bool(state["best"]["is_satisfied"]), clock)


def _layer(name: str) -> str:
    return name.removesuffix(".quant_recipe")


def read_table(stats: dict[str, Any], subject: Subject) -> Table:
    """ModelOpt's scores; an error if a layer is missing, has other widths, or costs another number of bits."""
    own = {layer.name: layer for layer in subject.network.layers}
    table: Table = {}
    for name, one in stats.items():
        curve = {fmt.num_bits: float(score) for fmt, score in zip(one["formats"], one["scores"], strict=True)}
        costs = {fmt.num_bits: 16 * float(cost) for fmt, cost in zip(one["formats"], one["costs"], strict=True)}
        if costs != {bits: own[_layer(name)].weights * bits for bits in BITS}:
            raise SystemExit(
                f"ModelOpt counts {costs} weight bits at {name!r}, where other widths or sizes are expected."
            )
        table[_layer(name)] = curve
    if set(table) != set(own):
        raise SystemExit(f"ModelOpt searched {len(table)} of {len(own)} layers.")
    return {name: table[name] for name in own}


def objective(table: Table, bits: dict[str, int]) -> float:
    """Sum of the chosen scores."""
    return sum(table[name][bits[name]] for name in table)


def average_bits(subject: Subject, bits: dict[str, int]) -> float:
    """Bits a weight."""
    layers = subject.network.layers
    return sum(layer.weights * bits[layer.name] for layer in layers) / sum(layer.weights for layer in layers)


def solved_by_modelopt(subject: Subject, table: Table, asked: float, factor: float = 1.0) -> dict[str, int] | None:
    """ModelOpt's solver on the table, as its search calls it; None where it says that it found nothing."""
    sizes = {layer.name: layer.weights for layer in subject.network.layers}
    limit = asked * sum(sizes.values())
    for lower in (None, 0.99, 0.9):
        solver = LPS(
            name="again",
            constraints={"weight_bits": (lower * limit if lower else None, limit)},
            constraints_to_candidate_costs={"weight_bits": [[sizes[n] * b for b in c] for n, c in table.items()]},
            candidate_scores=[[factor * score for score in curve.values()] for curve in table.values()],
            objective_type="minimize",
        )
        with silent_solvers():
            chosen, status = solver()
        if status == "Optimal":
            return {name: list(table[name])[at] for name, at in zip(table, chosen, strict=True)}
    return None


def solved_by_mixbit(subject: Subject, table: Table, budget: Budget) -> tuple[Policy, float]:
    """The proven optimum of the same table under the same limit, nothing pinned, and its objective."""
    layers = {name: LayerScores(weight=curve, activation={8: 0.0}) for name, curve in table.items()}
    scores = Scores(fingerprint=subject.network.fingerprint, method="modelopt", layers=layers)
    policy, found = allocate(subject.network, scores, budget, AllocationSettings(pins={}, repair="none"))
    return policy, found.objective


def comparison(subject: Subject, table: Table) -> list[dict[str, Any]]:
    """Effective bits and objective of three ways to solve one table, a row a budget."""
    rows = []
    weights = sum(layer.weights for layer in subject.network.layers)
    for asked in ASKED:
        policy, best = solved_by_mixbit(subject, table, Budget.parse([f"weight-bytes={int(asked * weights) // 8}"]))
        ours = {name: bits.weight_bits or 32 for name, bits in policy.layers.items()}
        one: dict[str, Any] = {"asked": asked, "mixbit": {"bits": average_bits(subject, ours), "objective": best}}
        for name, factor in (("modelopt", 1.0), ("modelopt, scores x 1e6", FACTOR)):
            bits = solved_by_modelopt(subject, table, asked, factor)
            one[name] = bits and {"bits": average_bits(subject, bits), "objective": objective(table, bits)}
        rows.append(one)
    return rows


def policies(subject: Subject, found: Found, images: int) -> dict[str, Policy]:
    """ModelOpt's own answer, and the optimum of its table."""
    method = f"modelopt {version('nvidia-modelopt')} auto_quantize"
    notes = [f"{images} images, gradient scores, weights 2, 4 or 8 bits, activations 8 bits, float excluded"]
    raw = subject.policy({n: LayerBits(b, 8) for n, b in found.bits.items()}, method=method, seed=0, notes=notes)
    best, _ = solved_by_mixbit(subject, found.table, subject.budget)
    again = [*notes, "the same scores, allocated by mixbit instead of ModelOpt's solver"]
    return {"modelopt": raw, "modelopt-resolved": subject.policy(best.layers, method=method, seed=0, notes=again)}


def tabled(subject: Subject, found: Found, batch_size: int) -> dict[str, Any]:
    """One score table: what its call cost and reported, and how solvers fare on it."""
    return {
        "batch": batch_size,
        "images": batch_size * STEPS,
        "effective_bits_reported": found.effective_bits,
        "is_satisfied": found.satisfied,
        "cpu_seconds": found.clock.cpu,
        "wall_seconds": found.clock.wall,
        "budgets": comparison(subject, found.table),
        "scores": found.table,
    }


def show(payload: dict[str, Any]) -> None:
    """What is worth a line."""
    for table in payload["tables"]:
        print({key: value for key, value in table.items() if not isinstance(value, dict | list)})
        for row in table["budgets"]:
            print("   ", row)


def searched(budget: str, batches: list[int]) -> dict[str, tuple[Policy, dict[str, Any]]]:
    """Both policies with what their files hold; they come of one score table."""
    torch.manual_seed(0)
    subject = Subject.load(budget)
    asked = subject.limit_bits / sum(layer.weights for layer in subject.network.layers)
    found = {size: run(subject, asked, size) for size in batches}
    used, images = found[batches[0]], batches[0] * STEPS
    tables = {"tables": [tabled(subject, one, size) for size, one in found.items()]}
    both = {}
    for name, policy in policies(subject, used, images).items():
        bits = {layer: one.weight_bits or 32 for layer, one in policy.layers.items()}
        payload: dict[str, Any] = {
            "images": images,
            "effective_bits_asked": asked,
            "effective_bits_obtained": average_bits(subject, bits),
            "objective": objective(used.table, bits),
            "cpu_seconds": used.clock.cpu,
            "wall_seconds": used.clock.wall,
        }
        print(name, payload)
        both[name] = policy, payload | (tables if name == "modelopt" else {})
    show(tables)
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", default=BUDGET, help="of weight bytes, as mixbit writes it")
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 32], help="the first one's is used")
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="modelopt")
    torch.set_num_threads(given.threads)
    batches = [8] if given.smoke else given.batch
    settings = {"batches": batches, "steps": STEPS, "threads": given.threads}
    files = [
        Kept("modelopt", given.budget, (*PARTS, "tables"), PACKAGES, settings, given),
        Kept("modelopt-resolved", given.budget, PARTS, PACKAGES, settings, given),
    ]
    missing = [one.missing() for one in files]
    both = searched(given.budget, batches) if any(missing) else {}
    for one in files:
        one.write(lambda one=one: both[one.name], fresh=any(missing))  # type: ignore[misc]


if __name__ == "__main__":
    main()
