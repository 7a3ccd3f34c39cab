"""Supernets for real: sub-networks against dedicated training, the supernet as a judge, and what its search is worth.

    python benchmarks/supernet.py [--networks mobilenetv1-cifar resnet20] [--seeds 0] [--parts supernets dedicated ...]

Float weights, supernets and dedicated networks have never seen the 5,000 training images that judge: those that are
held out with seed 0, whatever the seed of the training. Nothing is chosen by the test images. Parts:

    supernets  one set of weights for all bits, by LSQ and by BatchQuant activations, and what its uniform members give
    dedicated  uniform bits, trained alone for as many epochs
    searches   scores of each method, and policies of two budgets that evolve in the supernet, with what each took
    ranked     policies of one budget, judged by the supernets and by scores, and each trained by itself for a while
    equal      policies of two budgets, trained for as many epochs in all as a supernet and what follows it

Rows that the result file has are reused. A killed training goes on where it was, and several processes share the work:
each takes what no other one holds.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import records
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import data, methods, models
from mixbit.allocation import allocate
from mixbit.allocation.random_policy import random_policy
from mixbit.cost import Budget, LayerBits, costs
from mixbit.data import Part, Split, hold_out
from mixbit.errors import TrainingDiverged
from mixbit.evaluation import Metrics, evaluate
from mixbit.methods.qfa import Qfa
from mixbit.models import write_weights
from mixbit.network import capture
from mixbit.policy import Policy, Scores
from mixbit.quantization import put_policy_on
from mixbit.runs._lock import Busy, hold
from mixbit.supernet import (
    SandwichStep,
    SubnetJudge,
    Supernet,
    SupernetConfig,
    SupernetTraining,
    Uniform,
    build_supernet,
    settle,
)
from mixbit.task import Task
from mixbit.training import CHECKPOINT, TrainConfig, train

WEIGHTS = {
    "mobilenetv1-cifar": "cifar10_mobilenetv1_050.safetensors",
    "resnet20": "cifar10_resnet20_clean.safetensors",
}
BITS = (8, 6, 5, 4, 3, 2)
UNIFORM = (3, 2, 4, 8)
BUDGET, BYTES = "bitops=3x3", "bytes=3x3"
SCORES = ("fit", "hawq-v2", "limpq-init", "limpq")
JUDGES = 2_000
"""Held-out images of which a judgement is made; all of them where a table reports."""
STATISTICS = 1_280
EVOLVED = "evolved"
EQUAL = ("uniform", EVOLVED, "fit", "limpq-init", "random-0")
"""Policies that are compared at equal costs and epochs."""
PARTS = ("supernets", "dedicated", "searches", "ranked", "equal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long everything is trained: settings of all rows."""

    supernet: int = 6
    ranked: int = 2
    after: int = 2
    """Epochs after a supernet, for a policy that starts from its weights; all others have as many in all."""
    random: int = 6
    near: int = 5
    population: int = 32
    generations: int = 10


QUICK = Effort(supernet=1, ranked=1, after=1, random=1, near=0, population=2, generations=1)


def supernet_training(network: str, effort: Effort, seed: int) -> TrainConfig:
    """Of a supernet; its gradients are sums over four passes."""
    return TrainConfig(
        epochs=effort.supernet, lr=RATES["supernet"], step_lr=RATES["steps"], weight_decay=3e-5, distill=0.5,
        precision=PRECISION[network], seed=seed, bn_samples=0,
    )  # fmt: skip


def alone(network: str, epochs: int, seed: int) -> TrainConfig:
    """Of a network of one policy."""
    return TrainConfig(
        epochs=epochs, lr=RATES["alone"], step_lr=RATES["steps"], weight_decay=3e-5, distill=0.5,
        precision=PRECISION[network], seed=seed, validate_every=0,
    )  # fmt: skip


RATES = {"supernet": 0.02, "alone": 0.02, "steps": 0.001}
"""Chosen on held-out images by short runs, see docs/results.md."""
PRECISION = {"mobilenetv1-cifar": "float32", "resnet20": "bf16"}


class Study:
    """One network and one seed of everything."""

    def __init__(self, network: str, seed: int, effort: Effort, *, fresh: bool = False, smoke: bool = False) -> None:
        self.name, self.seed, self.effort, self.fresh, self.smoke = network, seed, effort, fresh, smoke
        runs = records.SMOKE if smoke else ROOT / "runs"
        self.folder = runs / "supernet" / f"{network}-s{seed}"
        self.of = {"network": network, "seed": seed}
        self._trained = dict[str, nn.Module]()
        self.bits = (8, 3, 2) if smoke else BITS
        self.batch = 16 if smoke else 128

    @cached_property
    def task(self) -> Task:
        """The float network that saw all but the held-out images, with those it saw to train on."""
        dataset, model = data.load(cifar10()), models.build(self.name)
        models.load_weights(model, shared_data() / "weights" / WEIGHTS[self.name])
        network = capture(model, next(dataset.test.batches(2))[0])
        rest, _ = self.parts(dataset.train)
        test: Split = dataset.test
        if self.smoke:
            rest, test = Part(rest, torch.arange(16)), Part(test, torch.arange(16))
        return Task(model=model, train=rest, test=test, network=network)

    def parts(self, split: Split) -> tuple[Split, Split]:
        """What trains, and what judges; the seed is that of the float network's own split."""
        return hold_out(split, 0.1, seed=0)

    @cached_property
    def held(self) -> Split:
        """All held-out images."""
        held = self.parts(data.load(cifar10()).train)[1]
        return Part(held, torch.arange(16)) if self.smoke else held

    @cached_property
    def judging(self) -> Split:
        """Those of which a judgement is made, drawn from all classes."""
        count = min(JUDGES, len(self.held) // 2)
        return Part(self.held, torch.randperm(len(self.held), generator=torch.Generator().manual_seed(0))[:count])

    def results(self, part: str, **settings: Any) -> records.Results:
        """Rows of a part; what they depend on beside the files."""
        return records.Results(
            "supernet",
            table=part,
            settings={"precision": PRECISION[self.name], "rates": RATES, **settings},
            inputs={"weights": shared_data() / "weights" / WEIGHTS[self.name], "data": cifar10_folder()},
            fresh=self.fresh,
            smoke=self.smoke,
        )

    # ------------------------------------------------------------------------------------------------- supernets

    def config(self, activations: str) -> SupernetConfig:
        """Of a supernet."""
        few = {"calibration_images": 16} if self.smoke else {}
        return SupernetConfig(bits=self.bits, activations=activations, seed=self.seed, **few)  # type: ignore[arg-type]

    def judge(self, model: nn.Module, held: Split) -> SubnetJudge:
        """By held-out images, with statistics from batches of the training's own size."""
        batches = self.task.train.batches(self.batch, seed=self.seed, shuffle=True, augment=True, drop_last=True)
        count = max(1, min(STATISTICS, len(self.task.train)) // self.batch)
        few = [x for (x, _), _ in zip(batches, range(count), strict=False)]
        return SubnetJudge(model, few, held, self.task.objective, precision="float32")

    def supernet_folder(self, activations: str) -> Path:
        """Of other settings, another one."""
        return self.folder / f"supernet-{activations}-e{self.effort.supernet}"

    def supernet(self, activations: str) -> tuple[nn.Module, dict[str, Any]]:
        """Trained, from its folder if it is there, with its history."""
        folder = self.supernet_folder(activations)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config(activations)
        model = build_supernet(self.task, config)
        judge = self.judge(model, self.judging)

        def validate(bits: Uniform) -> Metrics:
            judge.forget()
            return judge(bits)

        step = SandwichStep(model, self.task.network, config, validate)
        began, what = time.process_time(), dict[str, Any](diverged=None)
        settings = replace(supernet_training(self.name, self.effort, self.seed), batch_size=self.batch)
        try:
            found = train(
                model, self.task.train, None, settings, run=folder, teacher=self.task.model,
                loss=self.task.objective, step=step, label=f"{self.name} {activations} s{self.seed}",
            )  # fmt: skip
            what |= {"history": found.history, "cpu_seconds": round(time.process_time() - began, 1)}
        except TrainingDiverged as error:
            what |= {"diverged": str(error).split(";")[0]}
        write_weights(folder / "supernet.safetensors", model.state_dict())
        return model, what

    def trained(self, activations: str) -> nn.Module:
        """A supernet of which there is a row; built once."""
        if activations not in self._trained:
            model = build_supernet(self.task, self.config(activations))
            model.load_state_dict(load_file(self.supernet_folder(activations) / "supernet.safetensors"))
            self._trained[activations] = model
        return self._trained[activations]

    def supernets(self) -> Iterator[Job]:
        """Of each kind of activations, at all of its uniform bits."""
        results = self.results("supernets", bits=list(self.bits), epochs=self.effort.supernet)
        for activations in ("batchquant", "lsq"):

            def make(activations: str = activations) -> dict[str, Any]:
                model, what = self.supernet(activations)
                return {**what, "uniform": {} if what["diverged"] else self.members(model)}

            yield Job(results, {**self.of, "activations": activations}, make, self.supernet_folder(activations))

    def members(self, model: nn.Module) -> dict[str, Any]:
        """Uniform sub-networks, without any training of their own."""
        held, test = self.judge(model, self.held), self.judge(model, self.task.test)
        return {
            str(b): {"held_out": _said(held(Uniform(b))), "test": _said(test(Uniform(b)))} for b in sorted(self.bits)
        }

    # ------------------------------------------------------------------------------------------ one policy at a time

    def fit(self, policy: Policy, epochs: int, folder: Path, start: nn.Module | None = None) -> dict[str, Any]:
        """A policy trained by itself, from the float weights or from those of a supernet."""
        model = start
        if model is None:
            model = copy.deepcopy(self.task.model)
            put_policy_on(model, policy, self.task, seed=self.seed)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        settings = replace(alone(self.name, epochs, self.seed), batch_size=self.batch)
        found = train(
            model, self.task.train, self.task.test, settings, run=folder,
            teacher=self.task.model, loss=self.task.objective, label=folder.name,
        )  # fmt: skip
        assert found.metrics is not None
        took = round(time.process_time() - began, 1)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        held = evaluate(model, self.held, loss=self.task.objective)
        return {"test": _said(found.metrics), "held_out": _said(held), "cpu_seconds": took, "epochs": epochs}

    def dedicated(self) -> Iterator[Job]:
        """Uniform bits, for as many epochs as the supernets."""
        results = self.results("dedicated", epochs=self.effort.supernet)
        for bits in UNIFORM[:1] if self.smoke else UNIFORM:
            policy, folder = (
                Policy.uniform(self.task.network, bits, bits),
                self.folder / f"alone-{bits}-e{self.effort.supernet}",
            )
            of = {**self.of, "bits": bits}
            yield Job(results, of, lambda p=policy, f=folder: self.fit(p, self.effort.supernet, f), folder)  # type: ignore[misc]

    # -------------------------------------------------------------------------------------------------- policies

    def scored(self) -> tuple[str, ...]:
        """Methods that score."""
        return SCORES[:1] if self.smoke else SCORES

    def searches(self) -> Iterator[Job]:
        """Of the supernet for each budget, and of each method that scores; what they found is in their folders."""
        of = {"population": self.effort.population, "generations": self.effort.generations, "judged_on": JUDGES}
        results = self.results("searches", supernet=self.effort.supernet, **of)
        for budget in self.budgets():
            folder = self.folder / f"search-{EVOLVED}-{_slug(budget)}"
            yield Job(
                results,
                {**self.of, "name": EVOLVED, "budget": budget},
                lambda budget=budget, folder=folder: self._evolved(budget, folder),  # type: ignore[misc]
                folder,
            )
        for name in self.scored():
            yield Job(
                self.results("searches"),
                {**self.of, "name": name, "budget": "any"},
                lambda name=name: self._scored(name),  # type: ignore[misc]
                self.folder / f"search-{name}",
            )

    def _scored(self, name: str) -> dict[str, Any]:
        began = time.process_time()
        found = methods.make(name, {"seed": self.seed, "bits": sorted(self.bits)}).search(
            self.task, run=self.folder / f"search-{name}"
        )
        found.save(self.folder / f"scores-{name}.json")
        return {"cpu_seconds": round(time.process_time() - began, 1)}

    def scores(self, name: str) -> Scores:
        """What the part `searches` found."""
        return Scores.load(self.folder / f"scores-{name}.json")

    def _evolved(self, budget: str, folder: Path) -> dict[str, Any]:
        """The policy of the least loss on the images that judge, within a budget."""
        model, limits = self.trained("batchquant"), self.budgets()[budget]
        method = Qfa(
            costs=("bitops",) if budget == BUDGET else ("weight_bytes", "activation_bytes"),
            limits=self.limits(budget),
            population=self.effort.population,
            generations=self.effort.generations,
            seed=self.seed,
        )
        settings = SupernetTraining(bits=self.bits, activations="batchquant", seed=self.seed)
        judge = self.judge(model, self.judging)
        supernet = Supernet(task=self.task, settings=settings, judge=judge, held_out=self.judging)
        began = time.process_time()
        front = method.evolve(supernet, run=folder)
        took = round(time.process_time() - began, 1)
        policy = front.pick(limits, self.task.network, by="loss")
        policy.save(folder / "policy.json")
        found = {"cpu_seconds": took, "points": len(front.points), "notes": [*front.notes, *policy.notes]}
        return {**found, "bits": _bits(policy.layers), **self.used(policy)}

    def limits(self, budget: str) -> tuple[str, ...]:
        """A budget as text."""
        if budget == BUDGET:
            return (BUDGET,)
        used = costs(self.task.network, Policy.uniform(self.task.network, 3, 3).layers)
        return (f"weight-bytes={used.weight_bytes}", f"activation-bytes={used.activation_bytes}")

    def budgets(self) -> dict[str, Budget]:
        """That of BitOps, and that of bytes: what uniform 3 bits take, of weights and of activations at their peak."""
        names = (BUDGET,) if self.smoke else (BUDGET, BYTES)
        return {name: Budget.parse(list(self.limits(name))) for name in names}

    def names(self) -> list[str]:
        """Policies of one budget: uniform, evolved, of scores, random, and random near uniform."""
        random = [f"random-{draw}" for draw in range(self.effort.random)]
        return ["uniform", EVOLVED, *self.scored(), *random, *(f"near-{draw}" for draw in range(self.effort.near))]

    def policy(self, name: str, budget: str) -> Policy:
        """Within a budget."""
        limit, network = self.budgets()[budget], self.task.network
        if name == "uniform":
            return Policy.uniform(network, 3, 3)
        if name == EVOLVED:
            return Policy.load(self.folder / f"search-{EVOLVED}-{_slug(budget)}" / "policy.json")
        kind, _, draw = name.partition("-")
        if kind in ("random", "near"):
            bits = self.bits if kind == "random" else (2, 3, 4)
            return random_policy(network, limit, bits=bits, seed=100 * self.seed + int(draw))
        return allocate(network, self.scores(name), limit)[0]

    def ranked(self) -> Iterator[Job]:
        """Each policy of one budget: judged, scored, and trained by itself."""
        results = self.results("ranked", epochs=self.effort.ranked, judged_on=JUDGES, supernet=self.effort.supernet)
        for name in self.names()[: 1 if self.smoke else None]:
            yield self._ranked(results, name, self.policy(name, BUDGET))

    def _ranked(self, results: records.Results, name: str, policy: Policy) -> Job:
        folder = self.folder / f"ranked-{name}-e{self.effort.ranked}"

        def make() -> dict[str, Any]:
            judged = {}
            for activations in ("batchquant", "lsq"):
                model = self.trained(activations)
                judged[activations] = _said(self.judge(model, self.judging)(policy.layers))
            summed = {one: self.scores(one).total(policy.layers) for one in self.scored()}
            found = self.fit(policy, self.effort.ranked, folder)
            return {"judged": judged, "scores": summed, **found, **self.used(policy)}

        return Job(results, {**self.of, "name": name, "bits": _bits(policy.layers)}, make, folder)

    def equal(self) -> Iterator[Job]:
        """Policies of both budgets from the float weights, for as many epochs as a supernet and what follows it."""
        epochs = self.effort.supernet + self.effort.after
        results, made = self.results("equal", epochs=epochs), dict[str, Path]()
        for budget in self.budgets():
            for name in (EVOLVED,) if self.smoke else EQUAL:
                policy = self.policy(name, budget)
                bits = _bits(policy.layers)
                folder = made.setdefault(bits, self.folder / f"equal-{len(made)}-{name}-e{epochs}")
                of = {**self.of, "budget": budget, "name": name, "start": "float", "bits": bits}
                yield Job(results, of, lambda p=policy, f=folder: self._equal(p, epochs, f), folder)  # type: ignore[misc]
                if name == EVOLVED:
                    folder = self.folder / f"after-{_slug(budget)}-e{self.effort.after}"
                    of = {**of, "start": "supernet"}
                    yield Job(results, of, lambda p=policy, f=folder: self._after(p, f), folder)  # type: ignore[misc]

    def _equal(self, policy: Policy, epochs: int, folder: Path) -> dict[str, Any]:
        """Trained, or read where the same bits were trained for another budget."""
        path = folder / "result.json"
        if not path.exists():
            path.write_text(json.dumps(self.fit(policy, epochs, folder)))
        return {**json.loads(path.read_text()), **self.used(policy)}

    def _after(self, policy: Policy, folder: Path) -> dict[str, Any]:
        """From the weights of the supernet, for the epochs that are left."""
        model = copy.deepcopy(self.trained("batchquant"))
        self.judge(model, self.judging).recalibrate(policy.layers)
        settle(model)  # what is left is the network of this one policy
        return {**self.fit(policy, self.effort.after, folder, start=model), **self.used(policy)}

    def used(self, policy: Policy) -> dict[str, int]:
        """Costs of a policy."""
        found = costs(self.task.network, policy.layers)
        return {name: getattr(found, name) for name in ("bitops", "weight_bytes", "activation_bytes")}


@dataclass(frozen=True, slots=True, kw_only=False)
class Job:
    """One row, and how it is made in a folder that one process has at a time."""

    results: records.Results
    of: Mapping[str, Any]
    make: Callable[[], Mapping[str, Any]]
    folder: Path


def work(jobs: list[Job]) -> None:
    """All rows; what another process is at comes last, and waits for it."""
    left = jobs
    for wait in (False, True):
        busy = []
        for job in left:
            try:
                with hold(job.folder, wait=wait):
                    job.results.row(job.of, job.make)
            except Busy:
                busy.append(job)
        left = busy


def _said(metrics: Metrics) -> dict[str, float]:
    return {"accuracy": metrics.accuracy, "loss": metrics.loss}


def _slug(budget: str) -> str:
    return budget.replace("=", "-")


def _bits(layers: Mapping[str, LayerBits]) -> str:
    return " ".join(f"W{one.weight_bits}A{one.activation_bits}" for one in layers.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=1, help="several processes may share the work")
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for seed in given.seeds[:1] if given.smoke else given.seeds:
        for network in given.networks[:1] if given.smoke else given.networks:
            study = Study(network, seed, QUICK if given.smoke else Effort(), fresh=given.fresh, smoke=given.smoke)
            for part in given.parts:
                work(list(getattr(study, part)()))


if __name__ == "__main__":
    main()
