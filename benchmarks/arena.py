"""The arena: every search method on ResNet-20 and CIFAR-10, at equal budgets, with what each search took.

    python benchmarks/arena.py [--methods fit,hawq-v2] [--seeds 0 1 2] [--epochs 1] [--fraction 0.5] [--budgets B]

Every policy is fine-tuned from the same pretrained float weights with the same settings. Work that is done is not done
again, and killed work goes on where it was. Start it several times to share the work, with the same arguments or with
other methods, budgets and seeds. Policies of other toolkits in `benchmarks/peers/policies/` take part, with the time of
their search from `benchmarks/peers/results/`. The result file holds whatever is there; `--write-only` makes it alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common import ROOT, shared_data, unpacked_data, write_result
from mixbit import methods, report, runs

PEERS = ROOT / "benchmarks" / "peers"
BUDGETS = ("weight-bytes=10x", "bitops=3x3")
METHODS = (
    "uniform",
    "random",
    "random?seed=1",
    "random?seed=2",
    "map-size",
    "weight-entropy",
    "sqnr",
    "limpq-init",
    "one-at-a-time",
    "topological-entropy",
    "fit",
    "clado",
    "hawq-v2",
    "hawq-v3",
    "limpq",
)


def peer_policies(names: Sequence[str] | None = None) -> dict[str, Path]:
    """Name -> policy file of another toolkit: all, or those that are named.

    Raises:
        SystemExit: there is no such policy.
    """
    found = {path.stem: path for path in sorted((PEERS / "policies").glob("*.json"))}
    wanted = [name for name in found if names is None or name in names]
    if unknown := sorted({*(names or ())} - {*found, "none"}):
        raise SystemExit(f"--peers: {', '.join(unknown)} is no policy. Legal: {', '.join(found)}, or none.")
    return {name: found[name] for name in wanted}


def peer_efforts() -> dict[str, runs.Effort]:
    """Name -> seconds of its search, where a result file has a row of that name (or is one of that name)."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted((PEERS / "results").glob("*.json")):
        found = json.loads(path.read_text())
        rows |= {row.get("name", ""): row for row in found.get("rows", [found | {"name": path.stem}])}
    keys = ("cpu_seconds", "wall_seconds")
    known = {name: {key: rows.get(name, {}).get(key) for key in keys} for name in peer_policies()}
    return {name: runs.Effort(**values) for name, values in known.items() if any(values.values())}


def chosen_methods(text: str | None) -> list[str]:
    """Those asked for, or all that this version has."""
    if text is not None:
        return [name for name in text.split(",") if name]
    known = [name for name in METHODS if name.partition("?")[0] in methods.names()]
    for name in sorted({*METHODS} - {*known}):
        print(f"left out: this version has no method {name}")
    return known


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", help="with commas between; METHOD?key=value for settings; '' for peers alone")
    parser.add_argument("--peers", nargs="+", help="policies of other toolkits that take part, or none; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of calibration and fine-tuning")
    parser.add_argument(
        "--epochs", type=int, default=1, help="of fine-tuning, 0 for none; other numbers have a folder of their own"
    )
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the training data in an epoch")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of fine-tuning")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="1 if several processes run")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's binary files; default: unpacked into runs/data")
    parser.add_argument("--write-only", action="store_true", help="only write the result file and print the tables")
    return parser.parse_args()


def tuning(given: argparse.Namespace) -> dict[str, Any] | None:
    """Settings of fine-tuning; a folder holds rows of one such set."""
    if not given.epochs:
        return None
    found = {"epochs": given.epochs, "precision": given.precision, "validate_every": 0}
    return found if given.fraction == 1.0 else {**found, "fraction": given.fraction}


def work(given: argparse.Namespace, run: Path) -> None:
    """Make the rows that are missing."""
    subject = runs.Subject(
        model="resnet20",
        data=f"cifar10:{(given.data or unpacked_data()).resolve()}",
        weights=shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors",
    )
    runs.compare(
        subject,
        chosen_methods(given.methods),
        given.budgets,
        run,
        settings=tuning(given),
        fine_tune=given.epochs > 0,
        seeds=given.seeds,
        policies=peer_policies(given.peers),
        efforts=peer_efforts(),
        baselines=False,  # they are in the list, and another process may have them in its own
        tell=lambda row: print(report.arena_line(row), flush=True),
    )


def payload(found: runs.Comparison, epochs: float) -> dict[str, Any]:
    """What the result file holds beside command, commit and machine."""
    rows = [row.to_json() for row in found.rows]
    return {
        "epochs": epochs,
        "float_accuracy": found.float32.accuracy,
        "settings": found.settings,
        "efforts": {name: effort.to_json() for name, effort in found.efforts.items()},
        "interrupted": list(found.interrupted),
        "rows": rows,
    }


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    run = ROOT / "runs" / f"arena-{given.epochs * given.fraction:g}"
    if not given.write_only:
        work(given, run)
    found = runs.read_comparison(run)
    for table in report.arena_tables(found):
        print(table.plain() + "\n")
    epochs = given.epochs * given.fraction
    name = "arena_tuned" if epochs else "arena"
    path = write_result(name, payload(found, epochs), seed=sorted({row.seed for row in found.rows}))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
