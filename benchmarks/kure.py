"""KURE on CIFAR-10: a network fine-tuned with it beside the same fine-tuning without.

    python benchmarks/kure.py train [--network resnet20 mobilenet] [--term kure plain] [--quick] [--threads 1]
    python benchmarks/kure.py evaluate [--network ...] [--images 4000]      after train
    python benchmarks/kure.py search [--images 4000]                        after train
    python benchmarks/kure.py cost

resnet20 starts from published weights. mobilenet is MobileNetV1 0.25 with the published weights of the visual wake
words task and a new classifier, trained here on CIFAR-10 images enlarged to 64 x 64. Every training is a run folder; a
run that is done is not done again, and a killed one goes on where it was.

evaluate: robustness profiles of the float runs and of the W4A4 runs that start from them. search: what KURE does to
sensitivities and policies of the search methods. cost: CPU time of the term against a training step of ResNet-18.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from common import ROOT, result, shared_data, unpacked_data, write_result
from mixbit import _io, models, runs
from mixbit.allocation import allocate
from mixbit.cost import Budget, LayerBits
from mixbit.data import TensorSplit
from mixbit.policy import Policy, policy_distance, rank_correlation
from mixbit.ptq import PTQConfig, ptq
from mixbit.quantizers import fake_quantize, find_rule, integer_range
from mixbit.robustness import KurtosisPenalty, evaluator, step_sweep
from mixbit.robustness.quantizer_shift import Evaluate
from mixbit.runs import Subject
from mixbit.runs._trained import open_run
from mixbit.task import Task

ENLARGED = 64
PLAIN, KURE = "plain", "kure"
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


class Bench:
    """Subjects, tasks and folders of one network."""

    def __init__(self, network: str, *, quick: bool = False) -> None:
        self.network, self.quick, self.recipe = network, quick, RECIPES[network]
        self.runs = ROOT / "runs" / ("kure-quick" if quick else "kure") / network
        self.start, self.task = self._resnet20() if network == "resnet20" else self._mobilenet()

    def settings(self, values: dict[str, Any], term: str) -> dict[str, Any]:
        """Those of a recipe, with the term or without."""
        quick = {"epochs": 1, "fraction": 0.02} if self.quick else {}
        return {"validate_every": 0, **values, **quick, **({"kurtosis": self.recipe.kurtosis} if term == KURE else {})}

    def _resnet20(self) -> tuple[Subject, Task]:
        weights = shared_data() / "weights" / "cifar10_resnet20_akamaster.safetensors"
        subject = Subject(model="resnet20", data=f"cifar10:{unpacked_data()}", weights=weights)
        return subject, subject.task()[0]

    def _mobilenet(self) -> tuple[Subject, Task]:
        """The classifier is new: ten classes instead of two; everything else starts from the published weights."""
        subject = Subject(model="mobilenetv1-0.25", data=f"cifar10:{unpacked_data()}?size={ENLARGED}")
        start = self.runs / "start.safetensors"
        if not start.exists():
            start.parent.mkdir(parents=True, exist_ok=True)
            body = shared_data() / "weights" / "mlperf_vww_mobilenetv1_025_96.safetensors"
            with_body(subject.build(subject.load_data()), body, start)
        subject = replace(subject, weights=start)
        task, data = subject.task()
        settings = self.settings(self.recipe.base or {}, PLAIN)
        base = runs.train(subject, None, settings, self.runs / "base", task=task).trained
        return base, replace(task, model=base.build(data))

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


def train(networks: Sequence[str], terms: Sequence[str], *, quick: bool) -> None:
    """All trainings."""
    for name in networks:
        bench = Bench(name, quick=quick)
        for term in terms:
            bench.qat(term)


# ---------------------------------------------------------------------------------------------------- evaluation


def evaluate(networks: Sequence[str], images: int, *, quick: bool) -> dict[str, Any]:
    """Profiles of the four runs of each network, as `mixbit stress` makes them."""
    found: dict[str, Any] = {}
    for name in networks:
        folder = ROOT / "runs" / ("kure-quick" if quick else "kure") / name
        kinds = ("gaussian_noise", "gaussian_blur", "jpeg", "contrast")
        settings = runs.StressSettings(images=100 if quick else images, kinds=kinds, severities=(1, 3, 5))
        found[name] = {"recipe": asdict(RECIPES[name]), "runs": {}}
        for run in (PLAIN, KURE, f"{PLAIN}-W4A4", f"{KURE}-W4A4"):
            profile = runs.stress(folder / run, settings)
            opened = open_run(folder / run)
            steps = {} if profile.quantized else {"steps_w3": three_bits(opened.task, settings, folder / run)}
            found[name]["runs"][run] = {**profile.to_json(), **steps, "weights": weight_facts(opened.task)}
            print(name, run, profile.summary, flush=True)
    return found


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


def search(images: int, *, quick: bool) -> dict[str, Any]:
    """Scores of plain and of regularised weights: how far they agree, and accuracy of either policy on either."""
    folder = ROOT / "runs" / ("kure-quick" if quick else "kure") / "resnet20"
    opened = {term: open_run(folder / term) for term in (PLAIN, KURE)}
    measure = evaluator(opened[PLAIN].task.test, images=100 if quick else images)
    rows = []
    for method in SEARCHES:
        tables = {
            term: runs.search(one.subject, method, {}, folder / f"search-{term}-{method}", task=one.task).scores
            for term, one in opened.items()
        }
        agreement = rank_correlation(tables[PLAIN], tables[KURE])
        for budget in BUDGETS:
            network = opened[PLAIN].task.network
            limit = Budget.parse([budget])
            chosen = {term: allocate(network, table, limit)[0] for term, table in tables.items()}
            row: dict[str, Any] = {"method": method, "budget": budget, "distance": asdict(policy_distance(
                *({n: b for n, b in p.layers.items() if n in tables[PLAIN].layers} for p in chosen.values())
            ))}  # fmt: skip
            for term, one in opened.items():
                for source, policy in chosen.items():
                    row[f"{source} policy on {term} weights"] = after_ptq(one.task, policy, measure, folder)
            spearman = {side: {str(b): rho for b, rho in curve.items()} for side, curve in agreement.items()}
            rows.append({**row, "spearman": spearman})
            print(
                {key: value for key, value in row.items() if "policy" in key or key in ("method", "budget")}, flush=True
            )
    return {"images": images, "rows": rows}


def after_ptq(task: Task, policy: Policy, measure: Evaluate, folder: Path) -> float:
    """Accuracy without training, one MSE step a channel; remembered by weights and bits."""
    text = json.dumps([[b.weight_bits, b.activation_bits] for b in policy.layers.values()])
    facts = [float(p.detach().double().sum()) for p in task.model.parameters()]
    key = hashlib.blake2b(f"{text}{facts}".encode(), digest_size=8).hexdigest()
    path = folder / "after-ptq" / f"{key}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        done = ptq(task, policy, PTQConfig(method="mse", per_channel=True), quiet=True)
        _io.write_json(path, measure(done.model).accuracy)
    return float(_io.read_json(path))


# ------------------------------------------------------------------------------------------------------------ cost


def cost(batch: int = 32, rounds: int = 5) -> dict[str, Any]:
    """CPU seconds of a float training step of ResNet-18 at 224, and of the term, in turns."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
    split = TensorSplit(pixels, torch.arange(batch) % 1000, 1000, [0.5] * 3, [0.25] * 3)
    model = models.build("resnet18").to(memory_format=torch.channels_last)
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


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("train", "evaluate", "search", "cost"))
    parser.add_argument("--network", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES))
    parser.add_argument("--term", nargs="+", choices=(KURE, PLAIN), default=(KURE, PLAIN), help="for two processes")
    parser.add_argument("--images", type=int, default=4000, help="test images behind every figure")
    parser.add_argument("--quick", action="store_true", help="few images: does everything run?")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    if arguments.part == "train":
        train(arguments.network, arguments.term, quick=arguments.quick)
        return
    found = result("kure")
    parts = {key: found[key] for key in ("networks", "search", "cost") if key in found}
    if arguments.part == "evaluate":
        parts["networks"] = parts.get("networks", {}) | evaluate(
            arguments.network, arguments.images, quick=arguments.quick
        )
    elif arguments.part == "search":
        parts["search"] = search(arguments.images, quick=arguments.quick)
    else:
        parts["cost"] = cost()
    if arguments.quick:
        print(json.dumps(parts, indent=1)[:3000])
    else:
        write_result("kure", parts, seed=0)


if __name__ == "__main__":
    main()
