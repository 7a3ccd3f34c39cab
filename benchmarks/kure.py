"""KURE on CIFAR-10: a network fine-tuned with it beside the same fine-tuning without.

    python benchmarks/kure.py train [--network resnet20 mobilenet] [--term kure plain] [--seeds 0] [--threads 1]
    python benchmarks/kure.py evaluate [--network ...] [--images 4000] [--seeds 0]      after train
    python benchmarks/kure.py search [--images 2000] [--seeds 0]                        after train
    python benchmarks/kure.py cost

resnet20 starts from published weights. mobilenet is MobileNetV1 0.25 with the published weights of the visual wake
words task and a new classifier, trained here on CIFAR-10 images enlarged to 64 x 64. Every training is a run folder; a
run that is done is not done again, and a killed one goes on where it was.

evaluate: robustness profiles of the float runs and of the W4A4 runs that start from them, a row each. search: what KURE
does to sensitivities and policies of the search methods, a row a method and budget. cost: CPU time of the term against
a training step of ResNet-18. Rows that the result file has are reused, and the command says which.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import records
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import _io, models, runs
from mixbit.allocation import allocate
from mixbit.cost import Budget, LayerBits
from mixbit.data import Part, TensorSplit
from mixbit.policy import Policy, policy_distance, rank_correlation
from mixbit.ptq import PTQConfig, ptq
from mixbit.quantizers import fake_quantize, find_rule, integer_range
from mixbit.robustness import evaluator, step_sweep
from mixbit.robustness.quantizer_shift import Evaluate
from mixbit.runs import Subject
from mixbit.runs._trained import TrainedRun, open_run
from mixbit.task import Task
from mixbit.training import KurtosisPenalty

ENLARGED = 64
PLAIN, KURE = "plain", "kure"
RUNS = (PLAIN, KURE, f"{PLAIN}-W4A4", f"{KURE}-W4A4")
WEIGHTS = {
    "resnet20": "cifar10_resnet20_akamaster.safetensors",
    "mobilenet": "mlperf_vww_mobilenetv1_025_96.safetensors",
}
IMAGES = {"evaluate": 4000, "search": 2000}
KINDS, SEVERITIES = ("gaussian_noise", "gaussian_blur", "jpeg", "contrast"), (1, 3, 5)
SEARCHES = ("sqnr", "fit", "limpq-init", "weight-entropy")
BUDGETS = ("bitops=4x4", "bitops=3x4")
PER_TENSOR = {"per_channel": False}  # the paper's quantizers have one step a tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained; KURE and plain differ in the term alone."""

    base: dict[str, Any] | None
    """Of the training that comes first, where published weights are of another task."""
    tune: dict[str, Any]
    qat: dict[str, Any]
    kurtosis: Any = 1.0
    """The setting of that name."""


RECIPES = {
    "resnet20": Recipe(base=None, tune={"epochs": 4, "lr": 0.05}, qat={"epochs": 1, "lr": 0.01}),
    "mobilenet": Recipe(
        base={"epochs": 6, "lr": 0.05, "warmup_epochs": 0.5},
        tune={"epochs": 3, "lr": 0.02},
        qat={"epochs": 1, "lr": 0.01},
        # Some of its layers start at a kurtosis of hundreds; without these it rose further.
        kurtosis={"weight": 1.0, "clip": True, "warmup_epochs": 1.0},
    ),
}


def depends(network: str) -> dict[str, Any]:
    """Settings and inputs of all that is made of a network: recipe, weights, data."""
    data = cifar10_folder()
    return {
        "settings": {"recipe": asdict(RECIPES[network])},
        "inputs": {"weights": shared_data() / "weights" / WEIGHTS[network], "data": data},
    }


def folder_of(network: str, seed: int, *, smoke: bool) -> Path:
    """Of the trainings; other recipes, weights, data and versions have a folder of their own."""
    of = records._short(records.Results("kure", **depends(network)).depends)
    return (records.SMOKE if smoke else ROOT / "runs") / f"kure-{of}" / f"{network}-seed-{seed}"


class Bench:
    """Subjects, tasks and folders of one network."""

    def __init__(self, network: str, seed: int, *, smoke: bool = False) -> None:
        self.network, self.seed, self.smoke, self.recipe = network, seed, smoke, RECIPES[network]
        self.runs = folder_of(network, seed, smoke=smoke)
        self.start, self.task = self._resnet20() if network == "resnet20" else self._mobilenet()
        if smoke:
            self.task = few(self.task)

    def settings(self, values: dict[str, Any], term: str) -> dict[str, Any]:
        """Those of a recipe, with the term or without."""
        short = {"epochs": 1, "batch_size": 32} if self.smoke else {}
        return {"validate_every": 0, **values, **short, **({"kurtosis": self.recipe.kurtosis} if term == KURE else {})}

    def _resnet20(self) -> tuple[Subject, Task]:
        weights = shared_data() / "weights" / WEIGHTS[self.network]
        subject = Subject(model="resnet20", data=cifar10(), weights=weights, seed=self.seed)
        return subject, subject.task()[0]

    def _mobilenet(self) -> tuple[Subject, Task]:
        """The classifier is new: ten classes instead of two; everything else starts from the published weights."""
        data = cifar10(size=ENLARGED)
        subject = Subject(model="mobilenetv1-0.25", data=data, seed=self.seed)
        start = self.runs / "start.safetensors"
        if not start.exists():
            start.parent.mkdir(parents=True, exist_ok=True)
            with_body(subject.build(subject.load_data()), shared_data() / "weights" / WEIGHTS[self.network], start)
        subject = replace(subject, weights=start)
        task, images = subject.task()
        settings = self.settings(self.recipe.base or {}, PLAIN)
        base = runs.train(subject, None, settings, self.runs / "base", task=task).trained
        return base, replace(task, model=base.build(images))

    # -- trainings

    def tuned(self, term: str) -> tuple[Subject, Task]:
        """The float network after its fine-tuning."""
        done = runs.train(self.start, None, self.settings(self.recipe.tune, term), self.runs / term, task=self.task)
        return done.trained, replace(self.task, model=done.trained.build(self.start.load_data()))

    def qat(self, term: str) -> Path:
        """The run folder of the W4A4 training that starts from it."""
        subject, task = self.tuned(term)
        folder = self.runs / f"{term}-W4A4"
        settings = self.settings(self.recipe.qat, term) | {"quantize": PER_TENSOR}
        runs.train(subject, uniform(task, 4, 4), settings, folder, task=task)
        return folder


def few(task: Task) -> Task:
    """On a few images, for a smoke run."""
    return replace(task, train=Part(task.train, torch.arange(32)), test=Part(task.test, torch.arange(16)))


def uniform(task: Task, weight: int | None, activation: int | None) -> Policy:
    """All layers at these bits but the first and the last, which are at 8 where the others are quantized."""
    edge = LayerBits(8 if weight else None, 8 if activation else None)
    names = [layer.name for layer in task.network.layers]
    bits = {name: edge if name in (names[0], names[-1]) else LayerBits(weight, activation) for name in names}
    return Policy(fingerprint=task.network.fingerprint, layers=bits, method=f"W{weight or 32}A{activation or 32}")


def with_body(model: torch.nn.Module, path: Path, start: Path) -> None:
    """Write the model's weights with all published ones but the classifier's."""
    own, found = model.state_dict(), load_file(path)
    fit = {name: tensor for name, tensor in found.items() if own[name].shape == tensor.shape}
    left = sorted(name for name in set(own) - set(fit) if not name.endswith("num_batches_tracked"))
    if not left or any(not name.startswith("classifier") for name in left):
        raise SystemExit(f"{path} does not fit: {left} would keep their random start.")
    with _io.new_file(start) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in (own | fit).items()}, temporary)


def train(given: argparse.Namespace) -> None:
    """All trainings."""
    for seed in given.seeds:
        for name in given.network:
            bench = Bench(name, seed, smoke=given.smoke)
            for term in given.term:
                bench.qat(term)


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluate(given: argparse.Namespace) -> None:
    """Profiles of the four runs of each network, as `mixbit stress` makes them."""
    settings = runs.StressSettings(images=given.images, kinds=KINDS, severities=SEVERITIES)
    todo = []
    for name in given.network:
        results = records.Results("kure", table="runs", fresh=given.fresh, smoke=given.smoke, **depends(name))
        chosen = RUNS[2:3] if given.smoke else RUNS  # those in float are quantized a dozen times
        names = [
            {"network": name, "run": run, "seed": seed, "images": given.images}
            for seed in given.seeds
            for run in chosen
        ]
        results.plan(names)
        todo += [(results, of) for of in names]
    for results, of in todo:
        folder = folder_of(of["network"], of["seed"], smoke=given.smoke) / of["run"]
        results.row(of, lambda folder=folder: profiled(folder, settings))  # type: ignore[misc]
    if todo:
        todo[0][0].facts(recipes={name: asdict(recipe) for name, recipe in RECIPES.items()})


def profiled(folder: Path, settings: runs.StressSettings) -> dict[str, Any]:
    """One run. A finished profile of an earlier command is measured anew, a killed one goes on."""
    if (folder / "stress" / "profile.json").exists():
        shutil.rmtree(folder / "stress")
    profile, opened = runs.stress(folder, settings), open_run(folder)
    steps = {} if profile.quantized else {"steps_w3": three_bits(opened.task, settings, folder)}
    print(folder.name, profile.summary, flush=True)
    return {**profile.to_json(), **steps, "weights": weight_facts(opened.task)}


def three_bits(task: Task, settings: runs.StressSettings, run: Path) -> dict[str, Any]:
    """Scaled steps after post-training quantization at W3, beside the profile's W4."""
    path = run / "stress" / "steps-w3.json"
    if not path.exists():
        model = ptq(task, uniform(task, 3, None), settings.ptq_config(), quiet=True).model
        _io.write_json(path, step_sweep(model, evaluator(task.test, images=settings.images)).to_json())
    found: dict[str, Any] = _io.read_json(path)
    return found


@torch.no_grad()
def weight_facts(task: Task) -> dict[str, Any]:
    """Kurtosis, `max|w| / std`, and the relative squared error of the best step, mean over the regularised layers."""
    penalty = KurtosisPenalty(task)
    tensors = [task.model.get_submodule(name).weight.detach().reshape(1, -1) for name in penalty.layers]
    facts: dict[str, Any] = penalty.record(task.model)
    for bits in (2, 3, 4, 8):
        low, high = integer_range(bits, signed=True)
        errors = []
        for rows in tensors:
            step, zero = find_rule("mse")(rows, low, high)
            ends = (torch.full((1,), float(end)) for end in (low, high))
            errors.append(float((fake_quantize(rows, step, zero, *ends) - rows).square().mean() / rows.var()))
        facts[f"relative_mse_{bits}"] = sum(errors) / len(errors)
    return facts


# -------------------------------------------------------------------------------------------------- before a search


class Searched:
    """Scores of plain and of regularised weights of one seed: opened when they are first asked for."""

    def __init__(self, given: argparse.Namespace, seed: int) -> None:
        self.given, self.folder = given, folder_of("resnet20", seed, smoke=given.smoke)
        self.known: dict[str, float] = {}

    @cached_property
    def opened(self) -> dict[str, TrainedRun]:
        """Term -> its float run."""
        found = {term: open_run(self.folder / term) for term in (PLAIN, KURE)}
        return {term: replace(one, task=few(one.task)) for term, one in found.items()} if self.given.smoke else found

    @cached_property
    def measure(self) -> Evaluate:
        """Accuracy on the test images."""
        return evaluator(self.opened[PLAIN].task.test, images=self.given.images)

    def row(self, method: str, budget: str) -> dict[str, Any]:
        """How far the scores agree, and accuracy of either policy on either weights."""
        tables = {
            term: runs.search(one.subject, method, {}, self.folder / f"search-{term}-{method}", task=one.task).scores
            for term, one in self.opened.items()
        }
        network = self.opened[PLAIN].task.network
        chosen = {term: allocate(network, table, Budget.parse([budget]))[0] for term, table in tables.items()}
        free = ({n: b for n, b in p.layers.items() if n in tables[PLAIN].layers} for p in chosen.values())
        row: dict[str, Any] = {"distance": asdict(policy_distance(*free))}
        for term, one in self.opened.items():
            for source, policy in chosen.items():
                row[f"{source} policy on {term} weights"] = self.after_ptq(term, one.task, policy)
        print(method, budget, {key: value for key, value in row.items() if "policy" in key}, flush=True)
        agreement = rank_correlation(tables[PLAIN], tables[KURE])
        return {**row, "spearman": {side: {str(b): rho for b, rho in one.items()} for side, one in agreement.items()}}

    def after_ptq(self, term: str, task: Task, policy: Policy) -> float:
        """Accuracy without training, one MSE step a channel; equal policies are measured once."""
        key = json.dumps([term, [[b.weight_bits, b.activation_bits] for b in policy.layers.values()]])
        if key not in self.known:
            few_samples = {"samples": 16} if self.given.smoke else {}
            done = ptq(task, policy, PTQConfig(method="mse", per_channel=True, **few_samples), quiet=True)
            self.known[key] = self.measure(done.model).accuracy
        return self.known[key]


def search(given: argparse.Namespace) -> None:
    """What the term does before a search."""
    results = records.Results("kure", table="search", fresh=given.fresh, smoke=given.smoke, **depends("resnet20"))
    names = list(searches(given))
    results.plan(names)
    searched = {seed: Searched(given, seed) for seed in given.seeds}
    for of in names:
        results.row(of, lambda of=of: searched[of["seed"]].row(of["method"], of["budget"]))  # type: ignore[misc]


def searches(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Names of the rows."""
    chosen, budgets = (("weight-entropy",), BUDGETS[:1]) if given.smoke else (SEARCHES, BUDGETS)
    for seed in given.seeds:
        for method in chosen:
            for budget in budgets:
                yield {"method": method, "budget": budget, "seed": seed, "images": given.images}


# ------------------------------------------------------------------------------------------------------------ cost


def cost(batch: int, rounds: int, network: str, side: int) -> dict[str, Any]:
    """CPU seconds of a float training step of a network on images of this side, and of the term, in turns."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    split = TensorSplit(pixels, torch.arange(batch) % 10, 1000, [0.5] * 3, [0.25] * 3)
    model = models.build(network).to(memory_format=torch.channels_last)
    task = Task(model=model, train=split, test=split)
    penalty = KurtosisPenalty(task)
    x, y = next(split.batches(batch))
    x = x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    steps, terms = [], []
    for number in range(rounds + 1):
        for times, call in ((steps, step), (terms, lambda: penalty(model, 0.0))):
            began = time.process_time()
            call()
            if number:
                times.append(time.process_time() - began)
    ratios = [term / one for term, one in zip(terms, steps, strict=True)]
    return {
        "batch": batch,
        "layers": len(penalty.layers),
        "step_cpu_s": steps,
        "term_cpu_s": terms,
        "share_median": statistics.median(ratios),
    }


# ------------------------------------------------------------------------------------------------------- the file


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    found.add_argument("part", choices=("train", "evaluate", "search", "cost"))
    found.add_argument("--network", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES))
    found.add_argument("--term", nargs="+", choices=(KURE, PLAIN), default=(KURE, PLAIN), help="for two processes")
    found.add_argument("--seeds", type=int, nargs="+", default=[0], help="of trainings and new classifiers")
    found.add_argument("--images", type=int, help="test images behind every figure; 4000 to evaluate, 2000 to search")
    found.add_argument("--threads", type=int, default=torch.get_num_threads())
    records.arguments(found)
    return found


def main(words: Sequence[str] | None = None) -> None:
    given = parser().parse_args(words)
    torch.set_num_threads(given.threads)
    given.images = given.images or IMAGES.get(given.part)
    if given.smoke:
        given.network, given.images = ("resnet20",), 16
    if given.part == "cost":
        batch, rounds = (1, 1) if given.smoke else (32, 5)
        settings = {"batch": batch, "rounds": rounds}
        results = records.Results("kure", settings=settings, fresh=given.fresh, smoke=given.smoke)
        results.plan(["cost"])
        of = ("resnet20", 32) if given.smoke else ("resnet18", 224)
        results.part("cost", lambda: cost(batch, rounds, *of))
    else:
        {"train": train, "evaluate": evaluate, "search": search}[given.part](given)


if __name__ == "__main__":
    main()
