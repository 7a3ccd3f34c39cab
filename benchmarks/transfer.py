"""Do scores found on one data set serve another? Two cases, each with several methods.

    python benchmarks/transfer.py [--quick] [--part cifar mobilenet] [--epochs 1] [--threads 1]

cifar: ResNet-20 on CIFAR-10 (published weights) and on Fashion-MNIST (trained here for a few epochs), both ways.
mobilenet: one MobileNetV2 (published weights); scores from CIFAR-10 images enlarged to 224 x 224 against scores from
photographs of ImageNet's classes. A run that is done is not done again, and a killed one goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common import ROOT, result, shared_data, unpacked_data, write_result
from mixbit import _io, methods, runs
from mixbit.allocation import allocate
from mixbit.cost import Budget, costs
from mixbit.data import TensorSplit
from mixbit.errors import MixbitError
from mixbit.evaluation import evaluate
from mixbit.network import capture
from mixbit.policy import Policy, Scores, policy_distance, rank_correlation, resolve_pins
from mixbit.quantize import QuantizeConfig, calibrate, quantize
from mixbit.runs import Subject
from mixbit.task import Task
from mobilenet_tf import enlarged, mobilenet_tf, photographs, relabelled

METHODS = ("uniform", "sqnr", "fit", "topological-entropy", "limpq-init", "weight-entropy", "map-size")
CIFAR_BUDGETS, MOBILENET_BUDGETS = ("bitops=3x3", "bitops=4x4"), ("bitops=6x6", "bitops=7x7")
FLOAT = {"epochs": 3, "lr": 0.1, "warmup_epochs": 0.5, "validate_every": 0}
ENLARGED_CLASS, ENLARGED_OTHERS = 128, 328  # images of one class, for methods that want one label; then of all
CAT = 3
CALIBRATION = 16  # photographs; the search for the best of 80 steps takes its time


class Setup:
    """What --quick makes small: the same code on few images, in folders of its own."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.quick: bool = arguments.quick
        self.epochs: int = arguments.epochs
        self.float = {**FLOAT, "precision": arguments.precision} | ({"epochs": 1} if self.quick else {})
        self.fine_tune = {"precision": arguments.precision, "validate_every": 0}
        self.runs = ROOT / "runs" / ("transfer-quick" if self.quick else "transfer")
        self.methods = [name for name in (arguments.methods or METHODS) if name in methods.names()]
        self.missing = [name for name in (arguments.methods or METHODS) if name not in methods.names()]

    def small(self, split: Any, count: int) -> Any:
        """The first images of a split in memory, or all of it."""
        if not self.quick:
            return split
        cut = copy.copy(split)
        cut.images, cut.labels = split.images[:count], split.labels[:count]
        return cut

    def task(self, subject: Subject) -> Task:
        """The subject's task."""
        found = subject.task()[0]
        return replace(found, train=self.small(found.train, 2000), test=self.small(found.test, 200))


# -------------------------------------------------------------------------------- ResNet-20, both ways


def cifar_part(setup: Setup) -> list[dict[str, Any]]:
    """Rows of all methods, budgets and directions."""
    subjects = {"cifar10": cifar_subject(), "fashion-mnist": fashion_subject(setup)}
    tasks = {name: setup.task(subject) for name, subject in subjects.items()}
    rows = []
    for source, target in (("cifar10", "fashion-mnist"), ("fashion-mnist", "cifar10")):
        for method in setup.methods:
            found = setup.runs / "search" / source / method
            try:
                runs.search(subjects[source], method, {}, found, task=tasks[source], quiet=True)
            except MixbitError as error:
                rows.append({"source": source, "target": target, "method": method, "left_out": str(error)})
                continue
            for budget in CIFAR_BUDGETS[: 1 if setup.quick else None]:
                folder = setup.runs / f"{source}-to-{target}" / f"{method}-{budget.partition('=')[2]}"
                row = cifar_row(setup, found, subjects[target], tasks[target], budget, folder)
                rows.append({"source": source, "target": target, "method": method, "budget": budget, **row})
                print({key: value for key, value in rows[-1].items() if key != "agreement"}, flush=True)
    return rows


def cifar_row(setup: Setup, found: Path, subject: Subject, task: Task, budget: str, folder: Path) -> dict[str, Any]:
    """Accuracies of the transferred and the own policy, as `mixbit transfer` writes them."""
    runs.transfer(
        found, subject, [budget], folder, epochs=setup.epochs, settings=setup.fine_tune, task=task, quiet=True
    )
    done: dict[str, Any] = json.loads((folder / "transfer.json").read_text())
    return done


def cifar_subject() -> Subject:
    """ResNet-20 with the published weights."""
    weights = shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors"
    return Subject(model="resnet20", data=f"cifar10:{unpacked_data()}", weights=weights)


def fashion_subject(setup: Setup) -> Subject:
    """ResNet-20 for grey images, trained here."""
    start = Subject(model="resnet20", data=f"fashion-mnist:{unpacked_data() / 'fashion-mnist'}")
    folder = setup.runs / "fashion-mnist-float"
    return runs.train(start, None, setup.float, folder, task=setup.task(start)).trained


# ------------------------------------------------------------------------------------- MobileNetV2, two image sets


def mobilenet_part(setup: Setup) -> dict[str, Any]:
    """Agreement of the two score tables of each method, and accuracy of the policies on the photographs."""
    model = mobilenet_tf(shared_data() / "weights" / "tf2_mobilenet_v2_1.0_224_ptq.safetensors")
    photos = photographs(shared_data() / "imagenet_ccby", 32 if setup.quick else None)
    network = capture(model, next(photos.batches(2))[0])
    home = Task(model=model, train=photos, test=photos, network=network)
    cifar = cifar_images(setup)
    # Losses need labels of the network's own classes: those that it predicts, on both sets alike.
    predicted = {"cifar10": predictions(model, cifar), "photographs": predictions(model, photos)}
    sets = {"cifar10": cifar, "photographs": photos}
    result: dict[str, Any] = {"float_accuracy": evaluate(model, photos).accuracy, "images": len(photos), "rows": []}
    result["agreement"] = {}
    print(f"float accuracy on {len(photos)} photographs: {result['float_accuracy']:.4f}", flush=True)
    for budget in MOBILENET_BUDGETS:
        bits = int(budget[-1])
        uniform = Policy.uniform(network, bits, bits)
        result["rows"].append({"method": "uniform", "budget": budget, **mobilenet_row(setup, home, uniform)})
    for method in (name for name in setup.methods if name != "uniform"):
        tables = {}
        for name, split in sets.items():
            same_label = method == "topological-entropy"
            images = split if same_label else relabelled(split, predicted[name])
            task = replace(home, train=images)
            settings = entropy_settings(setup, name) if same_label else {}
            tables[name] = mobilenet_scores(task, method, settings, setup.runs / "mobilenet" / name / method)
        reason = next((table for table in tables.values() if isinstance(table, str)), None)
        if reason is not None:
            result["agreement"][method] = {"left_out": reason}
            continue
        result["agreement"][method], rows = mobilenet_method(setup, home, method, tables)
        result["rows"] += rows
    return result


def cifar_images(setup: Setup) -> TensorSplit:
    """CIFAR-10 training images at the network's input size: first of one class, then of all in their order."""
    train: Any = cifar_subject().load_data().train
    cats = (train.labels == CAT).nonzero().flatten()[:ENLARGED_CLASS]
    others = (train.labels != CAT).nonzero().flatten()[:ENLARGED_OTHERS]
    chosen = torch.cat([cats[:16], others[:16]]) if setup.quick else torch.cat([cats, others])
    return enlarged(train, chosen)


@torch.no_grad()
def predictions(model: nn.Module, split: TensorSplit) -> torch.Tensor:
    """The class that the float network sees in each image."""
    return torch.cat([model(x).argmax(dim=1) for x, _ in split.batches(64)])


def entropy_settings(setup: Setup, images: str) -> dict[str, Any]:
    """Topological entropy wants images of one class; of the photographs no class has more than four."""
    few = {"images": 16} if setup.quick else {}
    return {**few, "label": "mixed"} if images == "photographs" else few


def mobilenet_scores(task: Task, method: str, settings: Mapping[str, Any], folder: Path) -> Scores | str:
    """Scores of one method on one set of images, kept in its folder; or why there are none."""
    path = folder / "scores.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            methods.make(method, settings).search(task, run=folder, quiet=True).save(path)
        except MixbitError as error:
            return str(error)
    return Scores.load(path)


def mobilenet_method(
    setup: Setup, home: Task, method: str, tables: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Agreement, and one row a budget and table; equal policies are evaluated once."""
    spearman = rank_correlation(tables["cifar10"], tables["photographs"])
    agreement: dict[str, Any] = {side: {str(b): rho for b, rho in curve.items()} for side, curve in spearman.items()}
    rows, pinned = [], set(resolve_pins(home.network))
    for text in MOBILENET_BUDGETS:
        found = {name: allocate(home.network, table, Budget.parse([text]))[0] for name, table in tables.items()}
        free = [{k: v for k, v in policy.layers.items() if k not in pinned} for policy in found.values()]
        harms = [tables["photographs"].total(bits) for bits in free]
        agreement[text] = {**asdict(policy_distance(free[0], free[1])), "harm": harms[0], "own_harm": harms[1]}
        for name, policy in found.items():
            rows.append({"method": method, "scores_of": name, "budget": text, **mobilenet_row(setup, home, policy)})
            print(rows[-1], flush=True)
    return agreement, rows


def mobilenet_row(setup: Setup, home: Task, policy: Policy) -> dict[str, Any]:
    """Accuracy after calibration on the photographs; remembered by bits."""
    key = "_".join(f"{b.weight_bits}{b.activation_bits}" for b in policy.layers.values())
    path = setup.runs / "mobilenet" / "accuracy" / f"{key}.json"
    if not path.exists():
        model = copy.deepcopy(home.model)
        # Nothing is trained behind it, so steps are those of least squared error, not those that training starts from.
        quantize(model, policy, home.network, QuantizeConfig(weight_rule="mse"))
        samples = 2 if setup.quick else CALIBRATION
        calibrate(model, [next(home.train.batches(samples, seed=0, shuffle=True))[0]], "mse")
        _io.write_json(path, {"accuracy": evaluate(model, home.test, batch_size=64).accuracy})
    used = costs(home.network, policy.layers)
    return {**json.loads(path.read_text()), "bitops": used.bitops, "weight_bytes": used.weight_bytes}


# ------------------------------------------------------------------------------------------------------- the file


def earlier() -> dict[str, Any]:
    """Parts of the result file that this call does not make anew."""
    found = result("transfer")
    return {key: found[key] for key in ("cifar", "mobilenet") if key in found}


def write(setup: Setup, parts: dict[str, Any]) -> Path:
    """The result file; --quick leaves its own beside its runs."""
    if setup.quick:
        path = setup.runs / "transfer.json"
        _io.write_json(path, parts)
        return path
    settings = {"float": setup.float, "fine_tune": {"epochs": setup.epochs, **setup.fine_tune}}
    return write_result("transfer", {"settings": settings, "not_registered": setup.missing, **parts}, seed=0)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images, one budget: does everything run?")
    parser.add_argument("--part", nargs="+", choices=("cifar", "mobilenet"), default=("cifar", "mobilenet"))
    parser.add_argument("--methods", nargs="+", help="instead of the usual ones")
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="bf16 where the CPU has it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    setup = Setup(arguments)
    parts = {} if setup.quick else earlier()
    for name, make in (("cifar", cifar_part), ("mobilenet", mobilenet_part)):
        if name in arguments.part:
            parts[name] = make(setup)
            print(f"written to {write(setup, parts)}")


if __name__ == "__main__":
    main()
