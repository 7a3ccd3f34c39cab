"""Do scores found on one data set serve another? Two cases, each with several methods.

    python benchmarks/transfer.py [--part cifar mobilenet] [--methods fit ...] [--epochs 0] [--threads 1]

cifar: ResNet-20 on CIFAR-10 (published weights) and on Fashion-MNIST (trained here for a few epochs), both ways.
mobilenet: one MobileNetV2 (published weights); scores from CIFAR-10 images enlarged to 224 x 224 against scores from
photographs of ImageNet's classes. Rows that the result file has are reused, and the command says which; a killed
training goes on where it was. With fine-tuning (`--epochs 1`) the result file is another: transfer_1.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

import records
from common import ROOT, cifar10, cifar10_folder, shared_data, unpacked_data
from mixbit import methods, runs
from mixbit.allocation import allocate
from mixbit.cost import Budget, costs
from mixbit.data import TensorSplit
from mixbit.errors import MixbitError
from mixbit.evaluation import evaluate
from mixbit.network import capture
from mixbit.policy import Policy, Scores, policy_distance, rank_correlation, resolve_pins
from mixbit.quantization import QuantizeConfig, calibrate, quantize
from mixbit.quantizers import RuleName
from mixbit.runs import Subject
from mixbit.task import Task
from mobilenet_tf import enlarged, mobilenet_tf, photographs, relabelled

CIFAR_METHODS = ("uniform", "sqnr", "fit", "topological-entropy", "limpq-init")
MOBILENET_METHODS = ("uniform", "topological-entropy", "limpq-init", "fit")
CIFAR_BUDGETS, MOBILENET_BUDGETS = ("bitops=3x3", "bitops=4x4"), ("bitops=6x6", "bitops=7x7")
WEIGHTS, TF_WEIGHTS = "cifar10_resnet20_akamaster.safetensors", "tf2_mobilenet_v2_1.0_224_ptq.safetensors"
FLOAT = {"epochs": 3, "lr": 0.1, "warmup_epochs": 0.5, "validate_every": 0}
ENLARGED_CLASS, ENLARGED_OTHERS = 128, 328  # images of one class, for methods that want one label; then of all
CAT = 3
PHOTOGRAPHS = 456
CALIBRATION = 16  # photographs; the search for the best of 80 steps takes its time


class Setup:
    """What a smoke run makes small: the same code on few images, in folders of its own."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.smoke = given, bool(given.smoke)
        self.float = {**FLOAT, "precision": given.precision} | ({"epochs": 1, "batch_size": 32} if self.smoke else {})
        self.fine_tune = {"precision": given.precision, "validate_every": 0}
        self.name = f"transfer_{given.epochs}" if given.epochs else "transfer"

    def results(self, table: str, settings: dict[str, Any], *libraries: str, **inputs: Path) -> records.Results:
        """Rows of one table of the result file."""
        inputs["cifar10"] = cifar10_folder()
        return records.Results(
            self.name,
            table=table,
            settings=settings,
            inputs=inputs,
            libraries=("torch", *libraries),
            fresh=self.given.fresh,
            smoke=self.smoke,
        )

    @cached_property
    def cifar(self) -> records.Results:
        """Of ResNet-20, both ways."""
        settings = {"float": self.float, "fine_tune": {"epochs": self.given.epochs, **self.fine_tune}}
        fashion = unpacked_data() / "fashion-mnist"
        return self.results("cifar", settings, weights=shared_data() / "weights" / WEIGHTS, fashion=fashion)

    @cached_property
    def mobilenet(self) -> records.Results:
        """Of MobileNetV2 on two sets of images."""
        settings = {"calibration": 1 if self.smoke else CALIBRATION, "enlarged": [ENLARGED_CLASS, ENLARGED_OTHERS]}
        weights, photos = shared_data() / "weights" / TF_WEIGHTS, shared_data() / "imagenet_ccby"
        return self.results("mobilenet_rows", settings, "pillow", weights=weights, photographs=photos)

    def runs(self, results: records.Results) -> Path:
        """Searches and trainings; of other settings, weights, data and versions in a folder of their own."""
        base = records.SMOKE if self.smoke else ROOT / "runs"
        return base / f"{self.name}-{records._short(results.depends)}"

    def small(self, split: Any, count: int) -> Any:
        """The first images of a split in memory, or all of it."""
        if not self.smoke:
            return split
        cut = copy.copy(split)
        cut.images, cut.labels = split.images[:count], split.labels[:count]
        return cut

    def task(self, subject: Subject) -> Task:
        """The subject's task."""
        found = subject.task()[0]
        return replace(found, train=self.small(found.train, 32), test=self.small(found.test, 16))


# -------------------------------------------------------------------------------- ResNet-20, both ways


class Cifar:
    """Networks and tasks, made when they are first asked for."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.runs = setup, setup.runs(setup.cifar)

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """By data set; the one on Fashion-MNIST is trained here."""
        start = Subject(model="resnet20", data=f"fashion-mnist:{unpacked_data() / 'fashion-mnist'}")
        folder = self.runs / "fashion-mnist-float"
        fashion = runs.train(start, None, self.setup.float, folder, task=self.setup.task(start)).trained
        return {"cifar10": cifar_subject(), "fashion-mnist": fashion}

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """By data set."""
        return {name: self.setup.task(subject) for name, subject in self.subjects.items()}

    def names(self) -> Iterator[dict[str, Any]]:
        """Of all rows: both directions, all methods and budgets."""
        wanted = ("weight-entropy",) if self.setup.smoke else self.setup.given.methods or CIFAR_METHODS
        budgets = CIFAR_BUDGETS[: 1 if self.setup.smoke else None]
        ways = (("cifar10", "fashion-mnist"), ("fashion-mnist", "cifar10"))
        for source, target in ways[: 1 if self.setup.smoke else None]:
            for method in registered(wanted):
                for budget in budgets:
                    yield {"source": source, "target": target, "method": method, "budget": budget, "seed": 0}

    def values(self, of: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracies of the transferred and the own policy, as `mixbit transfer` writes them."""
        source, target, method, budget = (of[key] for key in ("source", "target", "method", "budget"))
        found = self.runs / "search" / source / method
        folder = self.runs / f"{source}-to-{target}" / f"{method}-{budget.partition('=')[2]}"
        if (folder / "transfer.json").exists():  # of an earlier command, and the result file does not have it
            shutil.rmtree(folder)
        fine_tune = {"epochs": self.setup.given.epochs, "settings": self.setup.fine_tune}
        try:
            runs.search(self.subjects[source], method, {}, found, task=self.tasks[source], quiet=True)
        except MixbitError as error:
            return {"left_out": str(error)}
        runs.transfer(found, self.subjects[target], [budget], folder, task=self.tasks[target], quiet=True, **fine_tune)
        done: dict[str, Any] = json.loads((folder / "transfer.json").read_text())
        print({key: value for key, value in done.items() if key != "agreement"}, flush=True)
        return done


def registered(names: Sequence[str]) -> list[str]:
    """Those that this version has; the others are told."""
    for name in sorted({*names} - {*methods.names()}):
        print(f"left out: this version has no method {name}")
    return [name for name in names if name in methods.names()]


def cifar_part(setup: Setup) -> None:
    """Rows of all methods, budgets and directions."""
    bench, names = Cifar(setup), list(Cifar(setup).names())
    setup.cifar.plan(names)
    for of in names:
        setup.cifar.row(of, lambda of=of: bench.values(of))  # type: ignore[misc]
    setup.cifar.facts(settings=setup.cifar.depends["settings"])


def cifar_subject() -> Subject:
    """ResNet-20 with the published weights."""
    return Subject(model="resnet20", data=cifar10(), weights=shared_data() / "weights" / WEIGHTS)


# ------------------------------------------------------------------------------------- MobileNetV2, two image sets


class MobileNet:
    """The network, both sets of images and the policies of each method, made when they are first asked for."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.runs = setup, setup.runs(setup.mobilenet)
        self.methods = registered(("weight-entropy",) if setup.smoke else setup.given.methods or MOBILENET_METHODS)
        self.budgets = MOBILENET_BUDGETS[: 1 if setup.smoke else None]
        self.images = 2 if setup.smoke else PHOTOGRAPHS
        self.known: dict[str, dict[str, float]] = {}

    @cached_property
    def home(self) -> Task:
        """The network on the photographs."""
        model = mobilenet_tf(shared_data() / "weights" / TF_WEIGHTS)
        photos = photographs(shared_data() / "imagenet_ccby", self.images)
        return Task(model=model, train=photos, test=photos, network=capture(model, next(photos.batches(2))[0]))

    @cached_property
    def sets(self) -> dict[str, TensorSplit]:
        """Images with the labels that they have."""
        photos: Any = self.home.train
        return {"cifar10": cifar_images(self.setup), "photographs": photos}

    @cached_property
    def predicted(self) -> dict[str, torch.Tensor]:
        """Losses need labels of the network's own classes: those that it predicts, on both sets alike."""
        return {name: predictions(self.home.model, split) for name, split in self.sets.items()}

    def tables(self, method: str) -> dict[str, Scores | str]:
        """Scores of one method on either set, or why there are none."""
        found: dict[str, Scores | str] = {}
        for name, split in self.sets.items():
            same_label = method == "topological-entropy"
            images = split if same_label else relabelled(split, self.predicted[name])
            few = {"bits": (4, 8), "rule": "lsq"} if self.setup.smoke else {}
            settings = entropy_settings(name) if same_label else few
            folder = self.runs / "mobilenet" / name / method
            found[name] = mobilenet_scores(replace(self.home, train=images), method, settings, folder)
        return found

    def policy(self, method: str, budget: str, source: str) -> Policy:
        """Of these scores within the budget."""
        if method == "uniform":
            return Policy.uniform(self.home.network, int(budget[-1]), int(budget[-1]))
        table = self.tables(method)[source]
        if isinstance(table, str):
            raise SystemExit(f"{method} has no scores on {source}: {table}")
        return allocate(self.home.network, table, Budget.parse([budget]))[0]

    def values(self, of: Mapping[str, Any]) -> dict[str, Any]:
        """Accuracy after calibration on the photographs; equal policies are measured once."""
        policy = self.policy(of["method"], of["budget"], of.get("scores_of", ""))
        key = "_".join(f"{b.weight_bits}{b.activation_bits}" for b in policy.layers.values())
        if key not in self.known:
            model = copy.deepcopy(self.home.model)
            # Nothing is trained behind it, so steps are those of least squared error, not those that training starts
            # from.
            rule: RuleName = "lsq" if self.setup.smoke else "mse"
            quantize(model, policy, self.home.network, QuantizeConfig(weight_rule=rule))
            samples = self.setup.mobilenet.depends["settings"]["calibration"]
            calibrate(model, [next(self.home.train.batches(samples, seed=0, shuffle=True))[0]], rule)
            used = costs(self.home.network, policy.layers)
            accuracy = evaluate(model, self.home.test, batch_size=64).accuracy
            self.known[key] = {"accuracy": accuracy, "bitops": used.bitops, "weight_bytes": used.weight_bytes}
        return self.known[key]

    def agreement(self, method: str) -> dict[str, Any]:
        """Of the scores and policies from either set; or why there is none."""
        tables: Mapping[str, Any] = self.tables(method)
        reason = next((table for table in tables.values() if isinstance(table, str)), None)
        if reason is not None:
            return {"left_out": reason}
        spearman = rank_correlation(tables["cifar10"], tables["photographs"])
        found: dict[str, Any] = {side: {str(b): rho for b, rho in curve.items()} for side, curve in spearman.items()}
        pinned = set(resolve_pins(self.home.network))
        for text in MOBILENET_BUDGETS:
            policies = [self.policy(method, text, name) for name in tables]
            free = [{k: v for k, v in policy.layers.items() if k not in pinned} for policy in policies]
            harms = [tables["photographs"].total(bits) for bits in free]
            found[text] = {**asdict(policy_distance(free[0], free[1])), "harm": harms[0], "own_harm": harms[1]}
        return found


def mobilenet_part(setup: Setup) -> None:
    """Agreement of the two score tables of each method, and accuracy of the policies on the photographs."""
    bench, results = MobileNet(setup), setup.mobilenet
    scored = [name for name in bench.methods if name != "uniform"]
    parts = [f"mobilenet_agreement.{name}" for name in scored]
    uniform = [{"method": "uniform", "budget": one, "images": bench.images, "seed": 0} for one in bench.budgets]
    results.plan(["mobilenet", *parts, *uniform])
    results.part("mobilenet", lambda: {
        "float_accuracy": evaluate(bench.home.model, bench.home.test).accuracy, "images": len(bench.home.test)
    })  # fmt: skip
    for of in uniform:
        results.row(of, lambda of=of: bench.values(of))  # type: ignore[misc]
    agreements = {}
    for name, part in zip(scored, parts, strict=True):
        agreements[name] = results.part(part, lambda name=name: bench.agreement(name))  # type: ignore[misc]
    usable = [name for name in scored if "left_out" not in agreements[name]]
    names = [
        {"method": name, "scores_of": source, "budget": budget, "images": bench.images, "seed": 0}
        for name in usable
        for budget in bench.budgets
        for source in ("cifar10", "photographs")
    ]
    results.plan(names)
    for of in names:
        results.row(of, lambda of=of: bench.values(of))  # type: ignore[misc]


def cifar_images(setup: Setup) -> TensorSplit:
    """CIFAR-10 training images at the network's input size: first of one class, then of all in their order."""
    train: Any = cifar_subject().load_data().train
    cats = (train.labels == CAT).nonzero().flatten()[:ENLARGED_CLASS]
    others = (train.labels != CAT).nonzero().flatten()[:ENLARGED_OTHERS]
    chosen = torch.cat([cats[:1], others[:1]]) if setup.smoke else torch.cat([cats, others])
    return enlarged(train, chosen)


@torch.no_grad()
def predictions(model: nn.Module, split: TensorSplit) -> torch.Tensor:
    """The class that the float network sees in each image."""
    return torch.cat([model(x).argmax(dim=1) for x, _ in split.batches(64)])


def entropy_settings(images: str) -> dict[str, Any]:
    """Topological entropy wants images of one class; of the photographs no class has more than four."""
    return {"label": "mixed"} if images == "photographs" else {}


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


# ------------------------------------------------------------------------------------------------------- the file


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    found.add_argument("--part", nargs="+", choices=("cifar", "mobilenet"), default=("cifar", "mobilenet"))
    found.add_argument("--methods", nargs="+", help="instead of those of the tables")
    found.add_argument("--epochs", type=int, default=0, help="of fine-tuning; other than 0 has its own result file")
    found.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="bf16 where the CPU has it")
    found.add_argument("--threads", type=int, default=torch.get_num_threads())
    records.arguments(found)
    return found


def main(words: Sequence[str] | None = None) -> None:
    given = parser().parse_args(words)
    torch.set_num_threads(given.threads)
    setup = Setup(given)
    for name, make in (("cifar", cifar_part), ("mobilenet", mobilenet_part)):
        if name in given.part:
            make(setup)


if __name__ == "__main__":
    main()
