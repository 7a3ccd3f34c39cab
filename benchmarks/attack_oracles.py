"""Each attack beside a library's on the same images: how good, and at what cost.

    python benchmarks/attack_oracles.py [--images 100] [--networks resnet8 ...] [--libraries ...] [--fresh | --smoke]

Networks: the pretrained ResNet-8 of MLPerf Tiny, and a ResNet-20 with projection shortcuts that was trained on
adversarial images. Images are the first of a seeded shuffle of the test set that the network has right. Ours and the
library's run one after the other in one process, one thread; seconds are the process's CPU time. ART attacks one image
at a time where it cannot batch, so of ART a few images are attacked, and both sides are of these images.

What is compared: of an attack that seeks the nearest point the mean (Boundary, GeoDA: median) distance over images that
both fooled; of one within a ball the share of images that stay right. A random search is averaged over five seeds.
Boundary and GeoDA get as many queries an image as the library asked for, and are then made with 1/64 of them, 1/32, and
so on, until they are as near: `queries_equal` and `cpu_equal`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import records
from attack_findings import SEED, TRIED
from common import cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit._heap import keep_freed_memory
from mixbit.attacks import Norm, make, norm_of
from mixbit.data import InputSpace
from mixbit.inference import TorchPredictor

DISTRIBUTIONS = {
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "pyautoattack": "pyautoattack",
    "art": "adversarial-robustness-toolbox",
}
LIBRARIES = tuple(DISTRIBUTIONS)
ADVERSARIAL = "cifar10_resnet20_pgd_optB_ehanw.safetensors"
WEIGHTS = {"resnet8": "mlperf_resnet8_cifar10.safetensors", "resnet20-adversarial": ADVERSARIAL}
FEW, SLOW = 8, {"resnet8": 100, "resnet20-adversarial": 32}
"""Images of ART, which attacks most of them one by one; of its attacks by labels, whose medians are compared."""

Attack = Callable[[Tensor, Tensor, int], Tensor]
"""Points of images, their labels and a seed."""


ASKED: Counter[str] = Counter()
"""Points that libraries asked for."""


class Pixels(nn.Module):
    """A network on pixels in [0, 1], as libraries want it."""

    def __init__(self, predictor: TorchPredictor) -> None:
        super().__init__()
        self.model, self.space = predictor.model, predictor.space
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, 10)` of images `(N, 3, 32, 32)`."""
        ASKED.update(points=len(x))
        logits: Tensor = self.model(self.space.enter(x.float()))
        return logits


@cache
def network(name: str) -> TorchPredictor:
    """With its published weights; gradients go to the input alone."""
    zoo = models.info("resnet8" if name == "resnet8" else "resnet20")
    model = models.build(zoo.name)
    path = shared_data() / "weights" / WEIGHTS[name]
    model = models.load_weights(model, path) if name == "resnet8" else projected(model, load_file(path))
    return TorchPredictor(
        model.eval().requires_grad_(False), InputSpace.of_images(mean=zoo.mean, std=zoo.std), name=name
    )


def projected(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """ResNet-20 with option B: a 1x1 convolution and a batch norm in place of padded shortcuts."""
    for stage, channels in ((2, 16), (3, 32)):
        block: Any = model.get_submodule(f"layer{stage}.0")
        conv = nn.Conv2d(channels, 2 * channels, 1, 2, bias=False)
        block.shortcut = nn.Sequential(conv, nn.BatchNorm2d(2 * channels))
    names = (
        ("stage_", "layer"), ("conv_", "conv"), ("bn_", "bn"), ("downsample", "shortcut"), ("fc.", "linear."),
    )  # fmt: skip
    renamed = {}
    for key, value in weights.items():
        for old, new in names:
            key = key.replace(old, new)
        renamed[key] = value
    model.load_state_dict(renamed)
    return model


@cache
def images(name: str, count: int) -> tuple[Tensor, Tensor]:
    """The first of a seeded shuffle of the test set that the network has right."""
    predictor = network(name)
    zoo = models.info("resnet8")
    z, y = next(data.load(cifar10(), mean=zoo.mean, std=zoo.std).test.batches(TRIED, seed=SEED, shuffle=True))
    x = InputSpace.of_images(mean=zoo.mean, std=zoo.std).leave(z).clamp(0, 1)
    right = (predictor.logits(x).argmax(1) == y).nonzero().squeeze(1)[:count]
    return x[right].contiguous(), y[right]


# ------------------------------------------------------------------------------------------------------------ libraries


def ours(name: str, limit: int | None = None, **settings: Any) -> Callable[[str], Attack]:
    """An attack of this package, of `limit` queries an image at the most."""
    return lambda on: lambda x, y, seed: make(name, settings).run(network(on), x, y, seed=seed, queries=limit).points


def of_foolbox(kind: str, radius: float | None = None, **settings: Any) -> Callable[[str], Attack]:
    """An attack of foolbox."""

    def made(on: str) -> Attack:
        import foolbox

        model = foolbox.PyTorchModel(Pixels(network(on)), bounds=(0, 1), device="cpu")
        attack = getattr(foolbox.attacks, kind)(**settings)

        def run(x: Tensor, y: Tensor, seed: int) -> Tensor:
            torch.manual_seed(seed)
            points: Tensor = attack(model, x, y, epsilons=radius)[1].detach()
            return points

        return run

    return made


def of_torchattacks(kind: str, **settings: Any) -> Callable[[str], Attack]:
    """An attack of torchattacks."""

    def made(on: str) -> Attack:
        import torchattacks

        return lambda x, y, seed: getattr(torchattacks, kind)(Pixels(network(on)), seed=seed, **settings)(x, y)

    return made


def of_pyautoattack(parts: list[str], radius: float, norm: str, **sizes: int) -> Callable[[str], Attack]:
    """Attacks of pyautoattack, one after the other on what is left; sizes such as `n_iter` and `n_queries`."""

    def made(on: str) -> Attack:
        from pyautoattack import AutoAttack

        tool = AutoAttack(Pixels(network(on)), norm=norm, eps=radius, version="custom", attacks=parts, seed=SEED)
        tool.apgd.n_restarts = tool.fab.n_restarts = 1
        for part in (tool.apgd, tool.apgd_targeted, tool.fab, tool.square):
            for name in sizes.keys() & vars(part).keys():
                setattr(part, name, sizes[name])

        def run(x: Tensor, y: Tensor, seed: int) -> Tensor:
            for part in (tool, tool.apgd, tool.apgd_targeted, tool.fab, tool.square):
                part.seed = seed
            with contextlib.redirect_stdout(io.StringIO()):
                found = tool.run_standard_evaluation(x, y, batch_size=len(x))
            points: Tensor = found[0] if isinstance(found, tuple) else found
            return points

        return run

    return made


def of_art(kind: str, **settings: Any) -> Callable[[str], Attack]:
    """An attack of ART, on logits."""

    def made(on: str) -> Attack:
        np.mat = np.asmatrix  # type: ignore[attr-defined]  # GeoDA asks for it, and NumPy has it no more
        import art.attacks.evasion as evasion
        from art.estimators.classification import PyTorchClassifier

        logging.disable(logging.WARNING)
        classifier = PyTorchClassifier(
            Pixels(network(on)), nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type="cpu"
        )
        attack = getattr(evasion, kind)(classifier, verbose=False, **settings)

        def run(x: Tensor, y: Tensor, seed: int) -> Tensor:
            np.random.seed(seed)
            given = {} if kind == "SaliencyMapMethod" else {"y": np.eye(10, dtype=np.float32)[y.numpy()]}
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # GeoDA writes files where it is
                points = attack.generate(x.numpy().copy(), **given)
            return torch.from_numpy(np.asarray(points, dtype=np.float32))

        return run

    return made


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack, ours and a library's."""

    attack: str
    package: str
    what: str
    """Norm of the distances that are compared (`mean L2`, `median L2`), or `robust`."""
    ours: Callable[[str], Attack]
    theirs: Callable[[str], Attack]
    most: Mapping[str, int] | int = 10_000
    """Images, of both networks or of each that has the case."""
    seeds: int = 1
    """Over which the values are averaged: of a random search one seed is mostly luck."""
    within: Callable[[int], Callable[[str], Attack]] | None = None
    """Ours with so many queries an image, in place of `ours`, where queries are what an attack costs."""


def cases() -> Iterator[Case]:
    """All of them, the libraries that attack batches first."""
    yield from _nearest()
    yield from _balls()
    yield from _art()


def _nearest() -> Iterator[Case]:
    long = {"steps": 10, "searches": 10, "first_c": 0.01}
    theirs = {"steps": 10, "binary_search_steps": 10, "initial_const": 0.01}
    yield Case(
        attack="DeepFool", package="foolbox", what="mean L2", ours=ours("deepfool", overshoot=0.02),
        theirs=of_foolbox("L2DeepFoolAttack", overshoot=0.02),
    )  # fmt: skip
    yield Case(
        attack="C&W L2", package="foolbox", what="mean L2", ours=ours("cw-l2", **long),
        theirs=of_foolbox("L2CarliniWagnerAttack", **theirs),
    )  # fmt: skip
    yield Case(
        attack="EAD", package="foolbox", what="mean L1", ours=ours("ead", **long),
        theirs=of_foolbox("EADAttack", regularization=1e-3, **theirs),
    )  # fmt: skip


def _balls() -> Iterator[Case]:
    for radius in (0.001, 0.002):
        step = radius / 10
        yield Case(
            attack=f"PGD {radius}", package="foolbox", what="robust",
            ours=ours("pgd", eps=radius, step=step, restarts=1),
            theirs=of_foolbox("LinfPGD", radius, abs_stepsize=step, steps=20, random_start=True),
        )  # fmt: skip
    for norm, radius, queries in (("Linf", 0.012, 100), ("L2", 0.3, 300)):
        yield Case(
            attack=f"Square {norm} {radius}, {queries} queries", package="torchattacks", what="robust",
            ours=ours("square", eps=radius, queries=queries, ball=norm),
            theirs=of_torchattacks("Square", norm=norm, eps=radius, n_queries=queries, loss="margin"), seeds=5,
        )  # fmt: skip
    for norm, radius in (("Linf", 0.0012), ("L2", 0.05)):
        yield Case(
            attack=f"AutoAttack {norm} {radius}", package="pyautoattack", what="robust",
            ours=ours("auto-attack", eps=radius, steps=20, queries=100, ball=norm),
            theirs=of_pyautoattack(
                ["apgd-ce", "apgd-t", "fab-t", "square"], radius, norm, n_iter=20, n_queries=100
            ),
        )  # fmt: skip


def _art() -> Iterator[Case]:
    """At the settings of the study of attacks at the deep edge, where these come to an end on images of 32 pixels."""
    cost: dict[str, Any] = {"package": "art", "most": {"resnet8": FEW}}
    for radius in (0.001, 0.004, 0.008):
        yield Case(
            attack=f"PGD {radius}, 20 x 20", what="robust", ours=ours("pgd", eps=radius, loss="cross-entropy"),
            theirs=of_art(
                "ProjectedGradientDescent", eps=radius, eps_step=radius / 10, max_iter=20, num_random_init=20
            ), **cost,
        )  # fmt: skip
    yield Case(
        attack="DeepFool", what="mean L2", ours=ours("deepfool", overshoot=0.008, steps=100, rivals=None),
        theirs=of_art("DeepFool", epsilon=0.008, max_iter=100), **cost,
    )  # fmt: skip
    yield Case(
        attack="C&W L2", what="mean L2", ours=ours("cw-l2", steps=10, searches=10, first_c=0.01),
        theirs=of_art("CarliniL2Method", max_iter=10, binary_search_steps=10, initial_const=0.01), **cost,
    )  # fmt: skip
    yield Case(
        attack="C&W Linf", what="mean Linf", ours=ours("cw-linf", steps=10, lr=0.01),
        theirs=of_art("CarliniLInfMethod", max_iter=10, learning_rate=0.01), **cost,
    )  # fmt: skip
    yield Case(
        attack="EAD", what="mean L1", ours=ours("ead", steps=10, searches=10, first_c=0.01),
        theirs=of_art("ElasticNet", max_iter=10, binary_search_steps=10, initial_const=0.01), **cost,
    )  # fmt: skip
    for saliency in ("lead", "pairs"):
        yield Case(
            attack=f"JSMA, {saliency}", what="mean L0", ours=ours("jsma", theta=0.08, gamma=1.0, saliency=saliency),
            theirs=of_art("SaliencyMapMethod", theta=0.08, gamma=1.0), **cost,
        )  # fmt: skip
    yield Case(
        attack="Square 0.015, 1000 queries", what="robust", ours=ours("square", eps=0.015, queries=1000, p=0.05),
        theirs=of_art("SquareAttack", eps=0.015, max_iter=1000, p_init=0.05), **cost,
    )  # fmt: skip
    yield Case(
        attack="ZOO", what="mean L2", ours=ours("zoo", steps=10, rounds=5),
        theirs=of_art("ZooAttack", max_iter=10, binary_search_steps=5, initial_const=0.01, use_resize=False), **cost,
    )  # fmt: skip
    slow: dict[str, Any] = {"package": "art", "most": SLOW, "what": "median L2"}
    yield Case(
        attack="GeoDA, 1000 queries", ours=ours("geoda"), within=lambda queries: ours("geoda", queries, budget=queries),
        theirs=of_art("GeoDA", batch_size=32, max_iter=1000, sub_dim=16), **slow,
    )  # fmt: skip
    yield Case(
        attack="Boundary, 100 steps", ours=ours("boundary"), within=lambda queries: ours("boundary", queries),
        theirs=of_art("BoundaryAttack", targeted=False, delta=0.1, epsilon=1.0, max_iter=100, init_size=100), **slow,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- measure


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one side came to: points of each seed, which of them are wrong, and CPU seconds an image."""

    points: list[Tensor]
    wrong: Tensor
    cpu: float


def attacked(attack: Attack, on: str, x: Tensor, y: Tensor, seeds: int) -> Side:
    """Make the attack once for each seed."""
    begun = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [attack(x, y, SEED + seed) for seed in range(seeds)]
    spent = (time.process_time() - begun) / len(x) / seeds
    wrong = torch.stack([network(on).logits(points).argmax(1) != y for points in found])
    return Side(points=found, wrong=wrong, cpu=spent)


def compare(case: Case, on: str, count: int) -> dict[str, Any]:
    """The library's, then ours."""
    x, y = images(on, min(count, case.most if isinstance(case.most, int) else case.most[on]))
    ASKED.clear()
    theirs = attacked(case.theirs(on), on, x, y, case.seeds)
    asked = ASKED["points"] // len(x) // case.seeds
    attack = case.ours if case.within is None else case.within(asked)
    ours = attacked(attack(on), on, x, y, case.seeds)
    values: dict[str, Any] = {"images": len(x), "seeds": case.seeds, "queries_theirs": asked}
    for side, found in {"theirs": theirs, "ours": ours}.items():
        values |= {side: _value(case.what, x, found, theirs, ours), f"cpu_{side}": found.cpu}
        values[f"success_{side}"] = float(found.wrong.double().mean())
    return values | (_as_near(case, on, x, y, theirs, asked) if case.within else {})


def _as_near(case: Case, on: str, x: Tensor, y: Tensor, theirs: Side, asked: int) -> dict[str, Any]:
    """The least of a doubling number of queries with which ours comes as near as theirs, and what it costs."""
    assert case.within is not None
    for queries in (asked >> halved for halved in range(6, -1, -1)):
        found = attacked(case.within(queries)(on), on, x, y, case.seeds)
        if bool(found.wrong.all()) and _value(case.what, x, found, theirs, found) <= _value(
            case.what, x, theirs, theirs, found
        ):
            return {"queries_equal": queries, "cpu_equal": found.cpu}
    return {"queries_equal": None, "cpu_equal": None}


def _value(what: str, x: Tensor, side: Side, one: Side, other: Side) -> float:
    """What is compared, of one of two sides: a distance over images that both fooled with every seed."""
    both = (one.wrong & other.wrong).all(0)
    each = [_of(what, points - x, wrong, both) for points, wrong in zip(side.points, side.wrong, strict=True)]
    return statistics.mean(each)


def _of(what: str, delta: Tensor, wrong: Tensor, both: Tensor) -> float:
    if what == "robust":
        return 100 * float((~wrong).double().mean())
    how, _, norm = what.partition(" ")
    kinds: dict[str, Norm] = {"L0": "L0", "L1": "L1", "L2": "L2", "Linf": "Linf"}
    lengths = norm_of(delta[both], kinds[norm]).double()
    return float(lengths.mean() if how == "mean" else lengths.median()) if len(lengths) else float("nan")


def installed() -> Iterator[str]:
    """Distributions of the packages that are there: torchattacks and pyautoattack are in no extra, since they pin
    others that do not go with ours; `pip install --no-deps` brings them."""
    for module, name in DISTRIBUTIONS.items():
        if importlib.util.find_spec(module):
            yield name


def main() -> None:
    """A row for each case and network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--networks", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS))
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    records.arguments(parser)
    given = parser.parse_args()
    os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    torch.set_num_threads(1)
    keep_freed_memory()
    results = records.Results(
        "attack_oracles",
        settings={"images": 2 if given.smoke else given.images, "seed": SEED},
        inputs={"data": cifar10_folder(), **{n: shared_data() / "weights" / f for n, f in WEIGHTS.items()}},
        libraries=("torch", *installed()),
        fresh=given.fresh,
        smoke=given.smoke,
    )
    for on in given.networks[: 1 if given.smoke else None]:
        for case in list(cases())[: 1 if given.smoke else None]:
            if case.package not in given.libraries or not (isinstance(case.most, int) or on in case.most):
                continue
            of = {"network": on, "attack": case.attack, "package": case.package, "what": case.what, "seeds": case.seeds}
            results.row(of, lambda c=case, n=on: compare(c, n, 2 if given.smoke else given.images))  # type: ignore[misc]


if __name__ == "__main__":
    main()
