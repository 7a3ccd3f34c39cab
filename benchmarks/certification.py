"""Certificates for real: ResNet-20 on CIFAR-10 trained under noise, in float and as the integers that ship.

    python benchmarks/certification.py [--sigmas 0.5 0.25 1.0] [--images 500] [--bits float W8A8 ...]
        [--parts trained ...] [--fresh | --smoke]

Parts:

    trained      accuracies of the networks: in float from the pretrained weights, and quantized from these under noise
    certified    each of them on every 20th test image, in ONNX Runtime: float as float, the others as integers
    incremental  the quantized ones again, from the certificates of float and a part of its samples
    early        what a bound that holds at all times saves, on the samples of `certified`
    speed        passes a second of a certificate against those of the network alone
    integers     40 images by executor, ONNX Runtime, compiled C and the fake-quantized network, on the same noise

Rows that the result file has are reused. A killed training or certificate goes on where it was, and several processes
share the work: each takes what no other one holds. The 5,000 training images that are held out with seed 0 train
nothing here. Images whose class is chosen wrongly on the first samples are asked no more: no certified accuracy and no
average radius depends on them.
"""

from __future__ import annotations

import argparse
import copy
import io
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import records
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit._heap import keep_freed_memory
from mixbit.certification import (
    Anchor,
    Certificate,
    Certified,
    ConfidenceSequence,
    Incremental,
    Smoothing,
    anchor,
    certify,
    certify_incrementally,
)
from mixbit.certification.bounds import chance_of, lower_bound, radius_of
from mixbit.cost import LayerBits
from mixbit.data import NoisySplit, Part, Split, hold_out
from mixbit.evaluation import evaluate
from mixbit.export import find_exporter
from mixbit.export.onnx import Cpu, build_onnx
from mixbit.export.predictors import ExecutorPredictor, OnnxPredictor
from mixbit.inference import Predictor, TorchPredictor
from mixbit.integer import GraphRounding, IntegerGraph, lower
from mixbit.ledger import Ledger, content_of
from mixbit.models import write_weights
from mixbit.policy import Policy
from mixbit.ptq import PTQConfig, ptq
from mixbit.quantization import put_policy_on
from mixbit.runs._lock import Busy, hold
from mixbit.task import Task
from mixbit.training import TrainConfig, train

NETWORK, WEIGHTS = "resnet20", "cifar10_resnet20_clean.safetensors"
SIGMAS = (0.5, 0.25, 1.0)
EPOCHS = {"float": 10, "quantized": 3}
PRECISION = "bf16"
PARTS = ("trained", "certified", "incremental", "early", "speed", "integers")
FLOAT, INT8 = "float", "W8A8"
BITS = (FLOAT, INT8, "W4A4", "W3A3")
IMAGES = {FLOAT: 500, INT8: 500, "W4A4": 200, "W3A3": 200}
EVERY = 20
SAMPLES = 10_000
ALPHA = 0.001
RUNTIMES = (
    "ONNX Runtime", "ONNX Runtime, weights for any processor", "fake-quantized", "executor as ONNX Runtime rounds",
    "executor", "C",
)  # fmt: skip
FEW = (100, 200, 500, 1000)
"""Samples of an incremental certificate: a hundredth to a tenth of the anchor's."""
MODES: dict[str, dict[str, Any]] = {
    "irs": {"mode": "irs", "disparity": "all"},
    "both": {"mode": "both", "disparity": "harmful"},
}
GRID = 33
"""Points of a curve, from 0 to the largest radius that can be certified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row to be made by one process."""

    results: records.Results
    of: dict[str, Any]
    make: Callable[[], dict[str, Any]]
    folder: Path


def float_training(epochs: int) -> TrainConfig:
    """On noisy images, from weights that have seen none."""
    return TrainConfig(
        epochs=epochs, lr=0.05, warmup_epochs=0.2, weight_decay=5e-4, precision=PRECISION, validate_every=0,
        bn_samples=0,
    )  # fmt: skip


class Study:
    """The networks of one sigma."""

    def __init__(self, sigma: float, *, bits: Sequence[str] = BITS, fresh: bool = False, smoke: bool = False) -> None:
        self.sigma, self.bits, self.fresh, self.smoke = sigma, tuple(bits), fresh, smoke
        self.folder = (records.SMOKE if smoke else ROOT / "runs") / "certification" / f"sigma-{sigma:g}"

    @cached_property
    def task(self) -> Task:
        """Clean weights and noisy training images."""
        zoo = models.info(NETWORK)
        found = data.load(cifar10(), mean=zoo.mean, std=zoo.std)
        model = models.load_weights(models.build(NETWORK), shared_data() / "weights" / WEIGHTS).eval()
        rest, _ = hold_out(found.train, 0.1, seed=0)
        test: Split = found.test
        if self.smoke:
            rest, test = Part(rest, torch.arange(32)), Part(test, torch.arange(32))
        return Task(model=model, train=NoisySplit(rest, self.sigma, found.std), test=test, space=found.space)

    @cached_property
    def noisy_test(self) -> Split:
        """Test images with one draw of noise each."""
        return NoisySplit(self.task.test, self.sigma, data.load(cifar10()).std, seed=1)

    def results(self, part: str, **settings: Any) -> records.Results:
        """Rows of a part; what they depend on beside the files."""
        return records.Results(
            "certification",
            table=part,
            settings={"network": NETWORK, **settings},
            inputs={"weights": shared_data() / "weights" / WEIGHTS, "data": cifar10_folder()},
            libraries=("torch", "onnxruntime"),
            fresh=self.fresh,
            smoke=self.smoke,
        )

    # --------------------------------------------------------------------------------------------------- training

    @cached_property
    def float_model(self) -> nn.Module:
        """Trained under noise; from its folder if it is there, and a killed training goes on."""
        epochs = 1 if self.smoke else EPOCHS["float"]
        folder = self.folder / f"float-e{epochs}"
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.safetensors"
        model = models.build(NETWORK)
        if weights.exists():
            model.load_state_dict(load_file(weights))
            return model.eval()
        model.load_state_dict(self.task.model.state_dict())
        config = replace(float_training(epochs), batch_size=16 if self.smoke else 128)
        train(model, self.task.train, None, config, run=folder, loss=self.task.objective, label=f"sigma {self.sigma}")
        write_weights(weights, model.state_dict())
        return model.eval()

    @cache  # noqa: B019 (a study lives as long as the process)
    def model(self, bits: str) -> nn.Module:
        """Of these bits, with the first and the last layer at 8: calibrated under noise, and trained below 8."""
        if bits == FLOAT:
            return self.float_model
        weight, activation = (int(one) for one in bits[1:].split("A"))
        network = self.task.network
        names = [layer.name for layer in network.layers]
        eight = LayerBits(8, 8)
        policy = Policy.uniform(network, weight, activation, {names[0]: eight, names[-1]: eight})
        noisy = replace(self.task, model=self.float_model)
        if bits == INT8:
            return ptq(noisy, policy, PTQConfig(seed=0), quiet=True).model.eval()
        return self._tuned(noisy, policy, bits)

    def _tuned(self, noisy: Task, policy: Policy, bits: str) -> nn.Module:
        """Trained under noise from the float network, which teaches."""
        epochs = 1 if self.smoke else EPOCHS["quantized"]
        folder = self.folder / f"{bits}-e{epochs}"
        folder.mkdir(parents=True, exist_ok=True)
        model, weights = copy.deepcopy(self.float_model), folder / "model.safetensors"
        put_policy_on(model, policy, noisy, seed=0)
        if weights.exists():
            model.load_state_dict(load_file(weights))
            return model.eval()
        config = TrainConfig(
            epochs=epochs, lr=0.01, step_lr=0.001, weight_decay=1e-4, distill=0.5, precision=PRECISION,
            validate_every=0, batch_size=16 if self.smoke else 128,
        )  # fmt: skip
        label = f"sigma {self.sigma} {bits}"
        train(model, noisy.train, None, config, run=folder, teacher=self.float_model, loss=noisy.objective, label=label)
        write_weights(weights, model.state_dict())
        return model.eval()

    @cache  # noqa: B019
    def graph(self, bits: str, rounding: GraphRounding = "single") -> IntegerGraph:
        """The integers as C rounds, or as ONNX Runtime does ("float32")."""
        x, _ = next(self.task.train.batches(256, seed=0, shuffle=True))
        return lower(self.model(bits), self.task.network, [x], rounding=rounding)

    @cache  # noqa: B019
    def predictor(self, bits: str) -> Predictor:
        """In ONNX Runtime."""
        if bits == FLOAT:
            return OnnxPredictor(float_file(self.float_model), self.task.space)
        return find_exporter("onnx").predictor(self.graph(bits), self.task.space)

    def trained(self) -> Iterator[Job]:
        """Accuracies of the networks themselves, which see an image once."""
        results = self.results("trained", epochs=EPOCHS, precision=PRECISION)
        for bits in self.bits:

            def make(bits: str = bits) -> dict[str, Any]:
                model = self.model(bits)
                return {
                    "clean": evaluate(model, self.task.test).accuracy,
                    "noisy": evaluate(model, self.noisy_test).accuracy,
                }

            yield Job(results=results, of={"sigma": self.sigma, "bits": bits}, make=make, folder=self._at(bits))

    def _at(self, what: str) -> Path:
        return self.folder / "rows" / what

    # ----------------------------------------------------------------------------------------------- certificates

    @property
    def smoothing(self) -> Smoothing:
        """Of all certificates; a bound is looked at with an alpha later."""
        n = 100 if self.smoke else SAMPLES
        return Smoothing(sigma=self.sigma, n0=20 if self.smoke else 100, n=n, alpha=ALPHA, batch=64, skip_wrong=True)

    def images(self, count: int) -> tuple[Tensor, Tensor, list[int]]:
        """Every 20th of the test set, whose order is random, as many as are asked for."""
        numbers = range(4) if self.smoke else range(0, EVERY * count, EVERY)
        z, y = next(Part(self.task.test, torch.tensor(numbers)).batches(count))
        return self.task.space.clip(self.task.space.leave(z)), y, list(numbers)

    def anchors(self, bits: str, count: int) -> list[Anchor]:
        """All samples of these images; what was made is kept."""
        x, y, numbers = self.images(count)
        model = self.model(bits)
        facts = {"weights": content_of(model.state_dict().values()), "pixels": content_of([x, y])}
        smoothing = self.smoothing
        given = {"sigma": smoothing.sigma, "n0": smoothing.n0, "n": smoothing.n}
        ledger = Ledger(self.folder / f"said-{bits}-{count}.jsonl", "samples of a network", {**facts, **given})
        known = {int(image): Anchor.from_json(ledger[image]) for image in ledger}

        def done(one: Anchor) -> None:
            ledger.put(str(one.image), one.to_json())

        return list(anchor(self.predictor(bits), x, y, smoothing, images=numbers, known=known, done=done))

    def certified(self) -> Iterator[Job]:
        """Curves and average radii."""
        results = self.results("certified", epochs=EPOCHS, precision=PRECISION, samples=SAMPLES, images=IMAGES)
        for bits in self.bits:

            def make(bits: str = bits) -> dict[str, Any]:
                found = self.anchors(bits, IMAGES[bits])
                made = certificates(found, self.sigma, self.smoothing.n, ALPHA)
                return {
                    "images": len(found),
                    "n": self.smoothing.n,
                    "chosen": [one.chosen for one in found],
                    "labels": [one.label for one in found],
                    "hits": [one.hits for one in found],
                    **summary(made, self.sigma),
                }

            yield Job(results=results, of={"sigma": self.sigma, "bits": bits}, make=make, folder=self._at(bits))

    def incremental(self) -> Iterator[Job]:
        """Certificates from those of float, and how many samples the network alone needs for the same."""
        results = self.results("incremental", epochs=EPOCHS, precision=PRECISION, samples=SAMPLES, images=IMAGES)
        for bits in self.bits:
            if bits == FLOAT:
                continue
            for mode in MODES:
                for few in FEW:
                    of = {"sigma": self.sigma, "bits": bits, "mode": mode, "samples": few}
                    yield Job(
                        results=results,
                        of=of,
                        make=lambda b=bits, m=mode, f=few: self._from_float(b, m, f),  # type: ignore[misc]
                        folder=self._at(f"{bits}-{mode}-{few}"),
                    )

    def _from_float(self, bits: str, mode: str, few: int) -> dict[str, Any]:
        """One kind of incremental certificate on all images of the network."""
        count, few = IMAGES[bits], min(few, self.smoothing.n)
        x, _, numbers = self.images(count)
        floats = {one.image: one for one in self.anchors(FLOAT, IMAGES[FLOAT])}
        before = [floats[image] for image in numbers]
        network = self.predictor(bits)
        began = time.process_time()
        found = certify_incrementally(network, before, x, self.smoothing, Incremental(samples=few, **MODES[mode]))
        took = time.process_time() - began
        certified = Certified(sigma=self.sigma, alpha=2 * ALPHA, certificates=found)
        alone = self.anchors(bits, count)
        needs = samples_for(certified.average_radius.value, alone, self.sigma)
        zeta = [share for one, own in zip(before, alone, strict=True) if (share := differing(one, own)) is not None]
        return {
            "images": count,
            "acr": certified.average_radius.value,
            "smoothed": certified.accuracy(0).value,
            "passes": certified.passes,
            "cpu_seconds": round(took, 2),
            "alone_samples": needs,
            "alone_passes": None if needs is None else passes_of(alone, needs, self.smoothing.n0),
            "differ": None if not zeta else float(np.mean(zeta)),
        }

    def early(self) -> Iterator[Job]:
        """Sampling that ends when a radius is decided, replayed on the samples of `certified`."""
        results = self.results("early", epochs=EPOCHS, precision=PRECISION, samples=SAMPLES, images=IMAGES)
        for bits in self.bits:
            for radius in (0.5, 1.0, 2.0):
                of = {"sigma": self.sigma, "bits": bits, "radius": radius * self.sigma}
                yield Job(
                    results=results,
                    of=of,
                    make=lambda b=bits, r=radius: self._decided(b, r * self.sigma),  # type: ignore[misc]
                    folder=self._at(f"{bits}-early-{radius:g}"),
                )

    def _decided(self, bits: str, radius: float) -> dict[str, Any]:
        alone = self.anchors(bits, IMAGES[bits])
        needed = float(chance_of(radius, self.sigma))
        ends = [until_decided(one, needed) for one in alone if len(one.said)]
        full = certificates(alone, self.sigma, self.smoothing.n, ALPHA)
        return {
            "images": len(alone),
            "accuracy": sum(sure for _, sure in ends) / len(alone),
            "samples": sum(samples for samples, _ in ends),
            "all_accuracy": full.accuracy(radius).value,
            "all_samples": self.smoothing.n * len(ends),
        }

    # ------------------------------------------------------------------------------------------------------- speed

    def speed(self) -> Iterator[Job]:
        """CPU time a pass, in turns."""
        if self.sigma != SIGMAS[0]:
            return
        results = self.results("speed", epochs=EPOCHS, precision=PRECISION)
        names = [{"bits": bits} for bits in BITS[:2]]
        rounds, passes = (1, 64) if self.smoke else (15, 1024)

        def make() -> list[dict[str, Any]]:
            x, y, _ = self.images(500)
            networks = {bits: self.predictor(bits) for bits in BITS[:2]}
            smoothing = replace(self.smoothing, n0=1, n=passes, skip_wrong=False)
            times = {(bits, what): list[float]() for bits in networks for what in ("forward", "certificate")}
            for at in range(rounds + 1):
                row = slice(at % len(x), at % len(x) + 1)
                for bits, network in networks.items():
                    batch = x[row].expand(smoothing.batch, -1, -1, -1).contiguous()
                    began = time.process_time()
                    for _ in range(passes // smoothing.batch):
                        network.logits(batch)
                    forward = time.process_time()
                    certify(network, x[row], y[row], smoothing)
                    times[bits, "forward"].append((forward - began) / passes)
                    times[bits, "certificate"].append((time.process_time() - forward) / (passes + 1))
            return [
                {
                    f"{what}_us": [round(1e6 * one, 1) for one in spread(times[bits, what][min(1, rounds) :])]
                    for what in ("forward", "certificate")
                }
                | {"throughput": spread(np.divide(times[bits, "forward"][1:], times[bits, "certificate"][1:]).tolist())}
                for bits in networks
            ]

        if results.find(names[0]) is None or results.find(names[1]) is None:
            results.group(names, make)
        yield from ()

    def _file(self, cpu: Cpu) -> bytes:
        """W8A8 for processors with VNNI, with all weights as they are, or for any, with some on wider steps."""
        return build_onnx(self.graph(INT8, "float32"), cpu=cpu).SerializeToString()

    def integers(self) -> Iterator[Job]:
        """The same noise for all runtimes of W8A8."""
        if self.sigma != SIGMAS[0]:
            return
        count, n = (2, 64) if self.smoke else (40, 1000)
        results = self.results("integers", epochs=EPOCHS, precision=PRECISION, samples=n, images=count)
        smoothing = replace(self.smoothing, n=n, n0=20 if self.smoke else 100, alpha=0.01)

        def make(on: str) -> dict[str, Any]:
            x, y, numbers = (one[:count] for one in self.images(500))
            space = self.task.space
            network: Predictor = {
                "executor as ONNX Runtime rounds": lambda: ExecutorPredictor(self.graph(INT8, "float32"), space),
                "executor": lambda: ExecutorPredictor(self.graph(INT8), space),
                "ONNX Runtime": lambda: OnnxPredictor(self._file("vnni"), space),
                "ONNX Runtime, weights for any processor": lambda: OnnxPredictor(self._file("any"), space),
                "C": lambda: find_exporter("c").predictor(self.graph(INT8), space),
                "fake-quantized": lambda: TorchPredictor(self.model(INT8), space),
            }[on]()
            began = time.process_time()
            found = certify(network, x, y, smoothing, images=numbers)
            return {
                "chosen": [one.chosen for one in found],
                "hits": [one.hits for one in found],
                "radii": [round(one.radius, 6) for one in found],
                "certified": sum(one.right for one in found),
                "cpu_seconds": round(time.process_time() - began, 1),
            }

        for on in RUNTIMES:
            yield Job(
                results=results,
                of={"on": on},
                make=lambda on=on: make(on),  # type: ignore[misc]
                folder=self._at(f"on-{RUNTIMES.index(on)}"),
            )


# ------------------------------------------------------------------------------------------------------- arithmetic


def float_file(model: nn.Module) -> bytes:
    """The float network for batches of any size."""
    example = torch.zeros(2, 3, 32, 32)
    with redirect_stdout(io.StringIO()):
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(model, (example,), dynamo=True, verbose=False, dynamic_shapes=shapes)
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def certificates(found: Sequence[Anchor], sigma: float, samples: int, alpha: float) -> Certified:
    """Of the first samples."""
    made = []
    for one in found:
        said = one.said[:samples]
        hits = int((said == one.chosen).sum())
        chance = float(lower_bound(hits, len(said), alpha)) if len(said) else 0.0
        made.append(
            Certificate(
                image=one.image, label=one.label, chosen=one.chosen, hits=hits, samples=len(said), chance=chance,
                radius=float(radius_of(chance, sigma)), passes=len(said),
            )
        )  # fmt: skip
    return Certified(sigma=sigma, alpha=alpha, certificates=tuple(made))


def summary(found: Certified, sigma: float) -> dict[str, Any]:
    """What a row says of certificates."""
    radii = [0.0, *(round(sigma * part, 4) for part in (0.5, 1.0, 1.5, 2.0, 3.0))]
    most = 3.2 * sigma
    return {
        "acr": interval(found.average_radius),
        "accuracy": [{"radius": radius, "share": interval(found.accuracy(radius))} for radius in radii],
        "curve": [[r, found.accuracy(r).value] for r in np.linspace(0, most, GRID).round(4).tolist()],
        "wrong": float(np.mean([one.samples == 0 for one in found.certificates])),
        "abstains": float(np.mean([one.abstains and one.samples > 0 for one in found.certificates])),
        "shares": {str(q): share for q, share in found.chances().items()},
    }


def interval(one: Any) -> list[float]:
    """Value and bounds."""
    return [round(float(number), 6) for number in (one.value, one.low, one.high)]


def spread(values: Sequence[float]) -> list[float]:
    """Median, least and most."""
    return [float(np.median(values)), float(min(values)), float(max(values))] if values else []


def samples_for(acr: float, alone: Sequence[Anchor], sigma: float) -> int | None:
    """The least samples by which a network alone has that average radius, with the sum of both alphas, if any."""
    most = max(len(one.said) for one in alone)
    low, high = 10, most
    if certificates(alone, sigma, most, 2 * ALPHA).average_radius.value < acr:
        return None
    while high - low > max(1, low // 100):  # it rises with the samples but for noise
        middle = (low + high) // 2
        enough = certificates(alone, sigma, middle, 2 * ALPHA).average_radius.value >= acr
        low, high = (low, middle) if enough else (middle, high)
    return high


def passes_of(alone: Sequence[Anchor], samples: int, n0: int) -> int:
    """Of certificates of so many samples; images of a wrong class are asked the first alone."""
    return sum(n0 + (samples if len(one.said) else 0) for one in alone)


def differing(one: Anchor, other: Anchor) -> float | None:
    """Share of the samples on which two networks differ."""
    both = min(len(one.said), len(other.said))
    return float((one.said[:both] != other.said[:both]).mean()) if both else None


def until_decided(one: Anchor, needed: float, batch: int = 256) -> tuple[int, bool]:
    """Samples until it is certain whether the chance of the class is as high, and whether it is and the class right."""
    bounds = ConfidenceSequence(ALPHA)
    for first in range(0, len(one.said), batch):
        said = one.said[first : first + batch]
        bounds.add(int((said == one.chosen).sum()), len(said))
        if bounds.low >= needed or bounds.high < needed:
            break
    return bounds.samples, bool(bounds.low >= needed and one.chosen == one.label)


def run(job: Job) -> bool:
    """Make a row unless another process is at it; whether it is there now."""
    if job.results.find(job.of) is None:
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            with hold(job.folder, wait=False):
                job.results.row(job.of, job.make)
        except Busy:
            return False
    return True


def main() -> None:
    """All parts of all sigmas, one sigma after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--images", type=int, default=500, help="at most, of each network")
    parser.add_argument("--bits", nargs="+", default=list(BITS), choices=BITS)
    parser.add_argument("--threads", type=int, default=1)
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    IMAGES.update({bits: min(count, given.images) for bits, count in IMAGES.items()})
    for sigma in given.sigmas[: 1 if given.smoke else None]:
        study = Study(sigma, bits=given.bits, fresh=given.fresh, smoke=given.smoke)
        for part in given.parts:
            for job in getattr(study, part)():
                run(job)


if __name__ == "__main__":
    main()
