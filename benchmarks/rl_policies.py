"""Policies by reinforcement learning for real: HAQ and ARQ beside scores, uniform bits and chance, at equal costs.

    python benchmarks/rl_policies.py [--parts haq arq episode] [--networks resnet20 mobilenetv1-cifar] [--seeds 0 1 2]
        [--budgets bitops=3x3 bitops=4x4] [--sigma 0.5] [--episodes 120] [--epochs 3] [--threads 1] [--fresh | --smoke]

Float weights have never seen the 5,000 training images that judge: those that are held out with seed 0. Searches are
judged by these alone, and all policies are trained for as many epochs on the others, from the same weights. Nothing is
chosen by the test images. Parts:

    haq      test accuracy of policies by HAQ, FIT, chance with as many evaluations, and uniform bits
    arq      the same under noise, with certificates on test images: ARQ, the same agent paid for noisy accuracy, FIT
             and LIMPQ on noisy images, chance by noisy accuracy, uniform bits; and the float network
    episode  what an episode takes, and how much of it is the agent's and what surrounds the passes

Seeds come one after the other, so that the first is complete before the second begins. Rows that the result file has
are reused, a killed search or training goes on where it was, and several processes share the work: each takes what no
other one holds.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import records
from certification import EPOCHS, float_training
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import data, methods, models
from mixbit._heap import keep_freed_memory
from mixbit.allocation import AllocationSettings, allocate
from mixbit.certification import Certificate, Certified, Smoothing, certify
from mixbit.cost import Budget
from mixbit.data import DataSet, NoisySplit, Part, Split, hold_out
from mixbit.evaluation import evaluate
from mixbit.inference import TorchPredictor
from mixbit.ledger import Ledger
from mixbit.methods import Arq, Haq, RandomSearch, read_episodes
from mixbit.models import write_weights
from mixbit.policy import Policy
from mixbit.quantization import calibrate as calibrate_steps
from mixbit.quantization import put_policy_on, quantize
from mixbit.runs._lock import Busy, hold
from mixbit.sensitivity.judging import bits_of
from mixbit.task import Task
from mixbit.training import TrainConfig, train

WEIGHTS = {
    "resnet20": "cifar10_resnet20_clean.safetensors",
    "mobilenetv1-cifar": "cifar10_mobilenetv1_050.safetensors",
}
BITS = (8, 6, 5, 4, 3, 2)
PARTS = ("haq", "arq", "episode")
NAMES: Mapping[str, tuple[str, ...]] = {
    "haq": ("uniform", "fit", "random-search", "haq"),
    "arq": ("float", "uniform", "fit", "limpq", "random-search", "haq", "arq"),
}
ARQ_BUDGET = "bitops=4x4"
OF_SIGMA = (0.5, 1.0, 1.5, 2.0)
"""Radii of certified accuracies, in sigmas."""
FRESH_NOISE = 7
"""Seed of the certificates that are reported, which no search has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What all rows have in common."""

    episodes: int = 120
    epochs: int = 3
    judges: int = 1024
    """Held-out images of the accuracies that judge."""
    radius_images: int = 100
    """Held-out images of the certificates that judge."""
    test_images: int = 500
    """Test images that are certified."""
    copies: int = 1000
    """Noisy copies of each."""
    threads: int = 1
    fresh: bool = False
    smoke: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row to be made by one process."""

    results: records.Results
    of: dict[str, Any]
    make: Callable[[Path], dict[str, Any]]
    folder: Path


@dataclass(kw_only=True)
class Study:
    """One network, clean or under noise."""

    network: str
    asked: Asked
    sigma: float | None = None
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of its searches and trainings."""
        root = records.SMOKE if self.asked.smoke else ROOT / "runs"
        noise = "clean" if self.sigma is None else f"sigma-{self.sigma:g}"
        return root / "rl-policies" / self.network / noise

    @cached_property
    def dataset(self) -> DataSet:
        """Normalised as the network wants it."""
        zoo = models.info(self.network)
        return data.load(cifar10(), mean=zoo.mean, std=zoo.std)

    @cached_property
    def parts(self) -> tuple[Split, Split]:
        """What trains, and what judges, without noise."""
        rest, held = hold_out(self.dataset.train, 0.1, seed=0)
        if self.asked.smoke:
            rest, held = Part(rest, torch.arange(64)), Part(held, torch.arange(40))  # type: ignore[arg-type]
        return rest, held

    @cached_property
    def test(self) -> Split:
        """Test images without noise."""
        return Part(self.dataset.test, torch.arange(32)) if self.asked.smoke else self.dataset.test  # type: ignore[arg-type]

    def noisy(self, split: Split, *, seed: int = 0) -> Split:
        """With noise where the study has some."""
        return split if self.sigma is None else NoisySplit(split, self.sigma, self.dataset.std, seed=seed)

    @cached_property
    def model(self) -> nn.Module:
        """Float weights; under noise they are trained for it, in a folder that a killed training goes on from."""
        model = models.load_weights(models.build(self.network), shared_data() / "weights" / WEIGHTS[self.network])
        if self.sigma is None:
            return model.eval()
        epochs = 1 if self.asked.smoke else EPOCHS["float"]
        # That of ResNet-20 is the network of the certificates (benchmarks/certification.py).
        root = records.SMOKE if self.asked.smoke else ROOT / "runs"
        folder = root / "certification" / f"sigma-{self.sigma:g}" / f"float-e{epochs}"
        folder = folder if self.network == "resnet20" else self.folder / f"float-e{epochs}"
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.safetensors"
        with hold(folder, wait=True):
            if not weights.exists():
                config = replace(float_training(epochs), batch_size=16 if self.asked.smoke else 128)
                train(model, self.noisy(self.parts[0]), None, config, run=folder, label=f"sigma {self.sigma}")
                write_weights(weights, model.state_dict())
        model.load_state_dict(load_file(weights))
        return model.eval()

    def task(self, split: Split) -> Task:
        """Of the float network, on these images, under the study's noise."""
        return Task(model=self.model, train=self.noisy(split), test=self.test, space=self.dataset.space)

    @cached_property
    def training(self) -> Task:
        """Scores and final trainings read these images."""
        return self.task(self.parts[0])

    @cached_property
    def judging(self) -> Task:
        """Searches of whole policies are judged by these alone."""
        return replace(self.task(self.parts[1]), network=self.training.network)

    # -- policies

    def policy(self, name: str, budget: Budget, seed: int, run: Path) -> Policy:
        """By its name; a killed search goes on in its folder."""
        asked, network = self.asked, self.training.network
        shared: dict[str, Any] = {"bits": BITS, "seed": seed}
        if name == "uniform":
            pair = next(iter(budget.texts.values())).split("x")
            return Policy.uniform(network, *map(int, pair))
        if name in ("fit", "limpq"):
            settings = {"bits": list(BITS), "seed": seed}
            if asked.smoke:
                settings |= {"images": 8} if name == "fit" else {"batch_size": 16}
            scores = methods.make(name, settings, kind="score").search(self.training, run=run, quiet=True)
            return allocate(network, scores, budget, AllocationSettings(repair="forbid", or_uniform=True))[0]
        if name == "random-search":
            chance = RandomSearch(trials=asked.episodes, by="metric", images=asked.judges, **shared)
            return chance.search(self.judging, budget, run=run)
        warmup = min(20, asked.episodes // 2)
        shared |= {"episodes": asked.episodes, "warmup": warmup, "fill": True}  # as chance uses the budget up
        if self.sigma is None:
            return Haq(images=asked.judges, **shared).search(self.judging, budget, run=run)
        return self.by_certificates("radius" if name == "arq" else "noisy", shared).search(
            self.judging, budget, run=run
        )

    def by_certificates(self, reward: Any, shared: Mapping[str, Any]) -> Arq:
        """ARQ, or its agent paid for accuracy under the same noise."""
        few = {"images": 8, "n0": 10, "n": 40, "samples": 20, "calibration_images": 16} if self.asked.smoke else {}
        return Arq(**{"reward": reward, "images": self.asked.radius_images, **few, **shared})

    def trained(self, policy: Policy, seed: int, run: Path) -> nn.Module:
        """From the float weights, with distillation; a killed training goes on."""
        model = copy.deepcopy(self.model)
        put_policy_on(model, policy, self.training, seed=seed)
        config = TrainConfig(
            epochs=self.asked.epochs, lr=0.01, step_lr=0.001, weight_decay=3e-5, distill=0.5, seed=seed,
            validate_every=0, precision="bf16", batch_size=16 if self.asked.smoke else 128,
        )  # fmt: skip
        objective = self.training.objective
        train(model, self.training.train, None, config, run=run, teacher=self.model, loss=objective)
        return model.eval()

    # -- what is reported

    def accuracies(self, model: nn.Module) -> dict[str, float]:
        """On test images, and under one draw of noise each."""
        clean = evaluate(model, self.test)
        found = {"accuracy": clean.accuracy, "loss": clean.loss}
        if self.sigma is not None:
            found["noisy"] = evaluate(model, self.noisy(self.test, seed=1)).accuracy
        return found

    def certificates(self, model: nn.Module, run: Path) -> dict[str, Any]:
        """On the first test images of a fixed order, with noise that no search had; each is kept when it is made."""
        assert self.sigma is not None
        asked = self.asked
        smoothing = Smoothing(sigma=self.sigma, n0=100, n=asked.copies, seed=FRESH_NOISE)
        z, y = next(self.test.batches(asked.test_images, seed=0, shuffle=True))
        x = self.dataset.space.clip(self.dataset.space.leave(z))
        known = Ledger(run / "certificates.jsonl", "certificates", {**asdict(smoothing), "images": len(y)})
        predictor, made = TorchPredictor(model, self.dataset.space), list[Certificate]()
        for at in range(len(y)):
            if str(at) not in known:
                (one,) = certify(predictor, x[at : at + 1], y[at : at + 1], smoothing, images=[at])
                known.put(str(at), asdict(one))
            made.append(known.read(str(at), Certificate))
        found = Certified(sigma=self.sigma, alpha=smoothing.alpha, certificates=tuple(made))
        radii = (0.0, *(self.sigma * one for one in OF_SIGMA))
        return {
            "average_radius": interval(found.average_radius),
            "certified": {f"{radius:g}": interval(found.accuracy(radius)) for radius in radii},
            "abstention": interval(found.abstention),
        }

    def row(self, name: str, budget: str, seed: int, folder: Path) -> dict[str, Any]:
        """One policy: searched, trained, measured."""
        if name == "float":
            return {**self.accuracies(self.model), **self.certificates(self.model, folder)}
        started = time.perf_counter()
        policy = self.policy(name, Budget.parse([budget]), seed, folder)
        seconds = time.perf_counter() - started
        model = self.trained(policy, seed, folder / "trained")
        found: dict[str, Any] = {
            **self.accuracies(model),
            "bits": " ".join(map(str, policy.layers.values())),
            "bitops_share": policy.costs["bitops"] / policy.costs["float_bitops"],
            "evaluations": policy.allocation.get("evaluations", 0),
            "objective": policy.allocation.get("objective"),
            "search_s": seconds,
        }
        return found if self.sigma is None else {**found, **self.certificates(model, folder)}

    def jobs(self, part: str, budgets: Sequence[str], seed: int) -> Iterator[Job]:
        """Rows of one seed; the float network has one."""
        settings = {
            name: value for name, value in asdict(self.asked).items() if name not in ("fresh", "smoke", "threads")
        }
        results = records.Results(
            "rl_policies",
            table=part,
            settings={**settings, "bits": BITS},
            inputs={"weights": shared_data() / "weights" / WEIGHTS[self.network], "data": cifar10_folder()},
            libraries=("torch",),
            fresh=self.asked.fresh,
            smoke=self.asked.smoke,
        )
        for budget in budgets:
            for name in NAMES[part]:
                own = "float" if name == "float" else budget
                if name == "float" and seed:
                    continue
                of = {"network": self.network, "budget": own, "name": name, "seed": seed}
                of |= {} if self.sigma is None else {"sigma": self.sigma}
                folder = self.folder / f"{name}-{own}-s{seed}-n{self.asked.episodes}-e{self.asked.epochs}"
                yield Job(results=results, of=of, make=partial(self.row, name, budget, seed), folder=folder)

    # -- time

    def episode(self) -> dict[str, float]:
        """Of ARQ: seconds of an episode, of the agent, and of the passes of its noisy copies alone."""
        shared = {"episodes": 6, "warmup": 2, "bits": BITS, "seed": 0}
        method, budget = self.by_certificates("radius", shared), Budget.parse([ARQ_BUDGET])
        with tempfile.TemporaryDirectory() as folder:
            method.search(self.judging, budget, run=Path(folder), quiet=True)
            known = read_episodes(Path(folder) / "arq-episodes.jsonl")[method.warmup :]
            lines = (Path(folder) / "arq-anchors.jsonl").read_text().splitlines()[1:]
        right = sum(json.loads(line)["value"]["hits"] > 0 for line in lines)
        model = copy.deepcopy(self.model)
        layers = bits_of(known[-1].bits, self.training.network)
        quantize(model, Policy(fingerprint=self.training.network.fingerprint, layers=layers), self.training.network)
        calibrate_steps(model, [next(self.judging.train.batches(64))[0]])
        return {
            "episode_s": mean([one.seconds for one in known if one.new]),
            "agent_s": mean([one.agent_seconds for one in known]),
            "passes_s": self.passes(model.eval(), right * method.samples, method.batch_size),
            "images_asked": right,
        }

    def passes(self, model: nn.Module, count: int, batch: int) -> float:
        """Seconds of so many passes on copies that are there already."""
        x = torch.randn(batch, *self.dataset.input_shape)
        with torch.no_grad():
            model(x)
            started = time.perf_counter()
            for first in range(0, count, batch):
                model(x[: min(batch, count - first)])
        return time.perf_counter() - started


def interval(found: Any) -> list[float]:
    """A value with its interval of 95 %."""
    return [found.value, found.low, found.high]


def mean(values: Sequence[float]) -> float:
    """Of some numbers, at least one."""
    return sum(values) / len(values)


def run(job: Job) -> bool:
    """Make a row unless another process is at it; whether it is there now."""
    if job.results.find(job.of) is None:
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            with hold(job.folder, wait=False):
                job.results.row(job.of, partial(job.make, job.folder))
        except Busy:
            return False
    return True


def main() -> None:
    """All rows of a seed, then those of the next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--networks", nargs="+", default=list(WEIGHTS), choices=list(WEIGHTS))
    parser.add_argument("--budgets", nargs="+", default=["bitops=3x3", "bitops=4x4"], help="of the part haq")
    parser.add_argument("--sigma", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    asked = Asked(episodes=given.episodes, epochs=given.epochs, fresh=given.fresh, threads=given.threads)
    networks, seeds, budgets, sigma = given.networks, given.seeds, given.budgets, given.sigma
    if given.smoke:
        asked = replace(asked, episodes=4, epochs=1, judges=16, radius_images=8, test_images=6, copies=20, smoke=True)
        networks, seeds, budgets, sigma = networks[-1:], seeds[:1], budgets[:1], 0.05
    for seed in seeds:
        for network in networks:
            for part in (one for one in given.parts if one != "episode"):
                study = Study(network=network, asked=asked, sigma=sigma if part == "arq" else None)
                for job in study.jobs(part, budgets if part == "haq" else [ARQ_BUDGET], seed):
                    run(job)
    if "episode" in given.parts:
        study = Study(network=networks[0], asked=asked, sigma=sigma)
        results = records.Results(
            "rl_policies",
            table="episode",
            settings={"threads": given.threads},
            inputs={"weights": shared_data() / "weights" / WEIGHTS[networks[0]], "data": cifar10_folder()},
            libraries=("torch", "numpy"),
            fresh=given.fresh,
            smoke=given.smoke,
        )
        results.row({"network": networks[0], "sigma": sigma}, study.episode)


if __name__ == "__main__":
    main()
