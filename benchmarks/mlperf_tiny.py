"""The four networks of MLPerf Tiny as C for a Cortex-M4: 8 bits beside a mixed policy at half the flash.

    python benchmarks/mlperf_tiny.py [--networks resnet8 ds-cnn ...] [--fresh | --smoke]

A policy gives every layer 2 to 8 bits for its weights and 8 for its inputs, which cost RAM and no flash. Its scores are
those of one-at-a-time: the divergence from the float network with the weights of one layer quantized (for anomaly
detection, the squared distance from its outputs). Rows are quantized without training (ptq), and again fine-tuned with
the float network's outputs (tuned). Rows that the result file has are reused; trainings go on where they were killed,
and those that are done are kept in runs/mlperf_tiny/, with scores and policies, in a folder of the weights, the data
and the settings that they were made with. --fresh measures all rows anew, under the policies and with the trainings
that are there. --smoke has one network on few inputs, at 8 bits, without a training.

Quality is, for ResNet-8, accuracy on all test images of CIFAR-10; for DS-CNN, accuracy on the 400 keywords left
when 100 are taken for calibration, and on all of them; for the other two, whose data are not to be had, how close the
integers come to the float network. Person detection gets random crops of photographs, a part of which is kept for that.
Anomaly detection gets what the network's own decoder makes of random codes, with noise of 3 dB.
"""

from __future__ import annotations

import argparse
import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import records
from common import ROOT, cifar10, cifar10_folder, shared_data
from mixbit import data, models
from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits
from mixbit.data import IndexedSplit, Part, Split, TensorSplit
from mixbit.data.order import generator
from mixbit.export.c import COptions, footprint, memory_table, verify_c
from mixbit.export.mcu import count, verify_board
from mixbit.export.mcu._tools import COMPILER, EMULATOR, version_of
from mixbit.integer import IntegerGraph, executor, lower
from mixbit.methods import OneAtATime
from mixbit.policy import LayerScores, Policy, Scores
from mixbit.ptq import PTQConfig, fold_bias, ptq
from mixbit.quantization import QuantizeConfig, calibrate, quantize
from mixbit.task import Task
from mixbit.training import TrainConfig, distilled_loss, train

NAME, SEED, CORE = "mlperf_tiny", 0, "cortex-m4"
WIDTHS = (8, 7, 6, 5, 4, 3, 2)
HOST_SAMPLES, BOARD_SAMPLES, COUNTED = 100, 3, 3
SMOKE = "ad-autoencoder"
TARGETS = {"resnet8": "85 %", "ds-cnn": "90 %", "mobilenetv1-0.25": "80 %", "ad-autoencoder": "AUC 0.85"}
"""Quality that the closed division asks for."""
WEIGHTS = {
    "resnet8": "mlperf_resnet8_cifar10",
    "ds-cnn": "mlperf_kws_dscnn_folded",
    "mobilenetv1-0.25": "mlperf_vww_mobilenetv1_025_96",
    "ad-autoencoder": "mlperf_ad_autoencoder",
}
"""Files of published weights."""

How = Literal["ptq", "tuned"]
Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network with what it is calibrated, tuned and measured on."""

    name: str
    task: Task
    measure: Callable[[Forward], dict[str, Any]]
    """Quality of a forward function."""
    recipe: TrainConfig
    samples: int = 128
    """Of the training split, for calibration; as many others to select by."""
    wide: bool = False
    """The outputs are no logits."""
    data: str
    """What it is calibrated and measured on, in words."""
    scored: int = 512
    """Samples behind the scores."""

    @cached_property
    def inputs(self) -> Tensor:
        """Samples for calibration."""
        return next(self.task.train.batches(self.samples, seed=SEED, shuffle=True))[0]


class Features(IndexedSplit):
    """Samples of any shape in memory, float32; `noise` and `shift` (of dimension 2, frames) are for training."""

    def __init__(self, x: Tensor, labels: Tensor, num_classes: int, *, noise: float = 0.0, shift: int = 0) -> None:
        super().__init__(labels, num_classes, "features")
        self.x, self.noise, self.shift = x, noise, shift

    def _produce(self, plans: Any, *, augment: bool, change: Any = None) -> Iterator[tuple[Tensor, Tensor]]:
        for plan in plans:
            chosen = plan.samples[plan.part]
            x = self.x[chosen]
            yield self._augmented(x, plan) if augment else x, self.labels[chosen]

    def _augmented(self, x: Tensor, plan: Any) -> Tensor:
        random = generator(plan.seed, plan.epoch, plan.index)
        if self.shift:
            by = torch.randint(-self.shift, self.shift + 1, (len(x),), generator=random)
            frames = (torch.arange(x.shape[2]) + by[:, None]).clamp(0, x.shape[2] - 1)
            x = x.gather(2, frames[:, None, :, None].expand(x.shape))
        return x + self.noise * torch.randn(x.shape, generator=random)


# ------------------------------------------------------------------------------------------------------ four networks


def network(name: str) -> nn.Module:
    """With its published weights."""
    return models.load_weights(models.build(name), shared_data() / "weights" / f"{WEIGHTS[name]}.safetensors").eval()


def folded(model: nn.Module) -> nn.Module:
    """MobileNetV1 with every BatchNorm in the convolution before it.

    Its statistics are those of the real training data. Fine-tuning on other images would replace them.
    """
    for module in list(model.modules()):
        for layer, norm in (("conv", "bn"), ("dw", "dw_bn"), ("pw", "pw_bn")):
            if hasattr(module, layer):
                setattr(module, layer, fuse_conv_bn_eval(getattr(module, layer), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return model.eval()


def image_classification(*, smoke: bool) -> Case:
    """ResNet-8 on CIFAR-10."""
    zoo = models.info("resnet8")
    found = data.load(cifar10(), mean=zoo.mean, std=zoo.std)
    test: Split = Part(found.test, torch.arange(0, 10_000, 50)) if smoke else found.test
    task = Task(model=network("resnet8"), train=found.train, test=test)
    return Case(
        name="resnet8",
        task=task,
        measure=lambda forward: {"accuracy": accuracy(forward, test), "samples": len(test)},
        recipe=TrainConfig(epochs=2, lr=0.01, distill=0.5, temperature=2.0, validate_every=0),
        data="CIFAR-10, 10,000 test images",
    )


def keyword_spotting(*, smoke: bool) -> Case:
    """DS-CNN on the 500 keywords that there are: 100 drawn for calibration and tuning, 400 for the test."""
    stored = np.load(shared_data() / "kws" / "speech_commands_mfcc_int8.npz")
    x = (torch.from_numpy(stored["x"]).float() - float(stored["zero_point"])) * float(stored["scale"])
    labels = torch.from_numpy(stored["y"]).long()
    every = Features(x[:, None], labels, 12, noise=2.0, shift=5)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    kept, taken = Part(every, order[100:]), Part(every, order[:100])
    task = Task(model=network("ds-cnn"), train=taken, test=kept)
    return Case(
        name="ds-cnn",
        task=task,
        measure=lambda forward: {
            "accuracy": accuracy(forward, kept),
            "samples": len(kept),
            "accuracy_all": accuracy(forward, every),
        },
        recipe=TrainConfig(epochs=300, batch_size=50, optimizer="adamw", lr=1e-3, distill=1.0, temperature=2.0),
        samples=50,
        scored=100,
        data="400 keywords; calibrated on 100 others",
    )


def person_detection(*, smoke: bool) -> Case:
    """MobileNetV1 on random crops of photographs; labels are what the float network says."""
    model = folded(network("mobilenetv1-0.25"))
    photographs = photographs_of(shared_data() / "imagenet_ccby")
    held_out, rest = photographs[:256], photographs[256:]
    splits = [
        labelled(model, crops(images, number, seed))
        for images, number, seed in ((rest, 500 if smoke else 4000, 1), (held_out, 100 if smoke else 1000, 2))
    ]
    said = splits[1].labels

    def measure(forward: Forward) -> dict[str, Any]:
        found = torch.cat([forward(x) for x, _ in splits[1].batches(100)]).argmax(1)
        persons = said == 1
        return {
            "agreement": float((found == said).float().mean()),
            "samples": len(said),
            "persons": int(persons.sum()),
            "agreement_persons": float((found == said)[persons].float().mean()),
        }

    return Case(
        name="mobilenetv1-0.25",
        task=Task(model=model, train=splits[0], test=splits[1]),
        measure=measure,
        recipe=TrainConfig(epochs=6, batch_size=64, optimizer="adamw", lr=1e-4, distill=1.0, temperature=2.0),
        data="random crops of 256 photographs; calibrated on crops of 200 others",
    )


def anomaly_detection(*, smoke: bool) -> Case:
    """The autoencoder on what its decoder makes of random codes; labels are numbers of the float outputs."""
    model = network("ad-autoencoder")
    number = 1000 if smoke else 40_000
    x = decoded(model, number + 1000, SEED)
    with torch.inference_mode():
        wanted = model(x)
    power = wanted[:number].var()
    splits = [Features(x[part], torch.arange(len(x))[part], len(x)) for part in (slice(0, number), slice(number, None))]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared distance from the float network's outputs, as a part of their variance."""
        return F.mse_loss(outputs, wanted[targets]) / power

    def measure(forward: Forward) -> dict[str, Any]:
        x, y = splits[1].x, wanted[number:]
        found = forward(x)
        scores = [(one - x).square().mean(1).numpy() for one in (y, found)]
        ranks = [one.argsort().argsort() for one in scores]
        return {
            "relative_rms": float((found - y).square().mean().sqrt() / y.std()),
            "rms_db": float((found - y).square().mean().sqrt()),
            "score_rank_correlation": float(np.corrcoef(*ranks)[0, 1]),
            "samples": len(x),
        }

    return Case(
        name="ad-autoencoder",
        task=Task(model=model, train=splits[0], test=splits[1], loss=loss),
        measure=measure,
        recipe=TrainConfig(epochs=12, batch_size=256, optimizer="adamw", lr=3e-3),
        wide=True,
        data="1,000 inputs from the network's decoder",
    )


CASES: dict[str, Callable[..., Case]] = {
    "resnet8": image_classification,
    "ds-cnn": keyword_spotting,
    "mobilenetv1-0.25": person_detection,
    "ad-autoencoder": anomaly_detection,
}


def photographs_of(folder: Path) -> list[Any]:
    """ImageNet-compatible photographs (CC-BY 2.0, `attribution.csv`) in random order."""
    from PIL import Image

    stored = np.load(folder / "nips17_ccby.npz")
    ends = stored["offset"]
    order = np.random.default_rng(SEED).permutation(len(ends) - 1)
    return [Image.open(io.BytesIO(stored["data"][ends[i] : ends[i + 1]].tobytes())).convert("RGB") for i in order]


def crops(photographs: Sequence[Any], number: int, seed: int) -> Tensor:
    """(number, 3, 96, 96) bytes: squares of half to all of a photograph's side, half of them mirrored."""
    from PIL import Image

    random, found = np.random.default_rng(seed), []
    for index in range(number):
        image = photographs[index % len(photographs)]
        side = int(min(image.size) * random.uniform(0.5, 1.0))
        left, top = (int(random.integers(0, size - side + 1)) for size in image.size)
        cut = image.crop((left, top, left + side, top + side)).resize((96, 96), Image.Resampling.BILINEAR)
        pixels = np.asarray(cut)
        found.append(pixels[:, ::-1] if random.random() < 0.5 else pixels)
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def labelled(model: nn.Module, pixels: Tensor) -> TensorSplit:
    """Images with the classes that the model gives them."""
    says = torch.cat([model(part.float() / 255).argmax(1) for part in pixels.split(200)])
    return TensorSplit(pixels, says, 2, (0.0,) * 3, (1.0,) * 3, source="crops")


@torch.inference_mode()
def decoded(model: nn.Module, number: int, seed: int, noise_db: float = 3.0) -> Tensor:
    """Inputs that the autoencoder takes for usual: BatchNorm says how its codes were distributed in training.

    A BatchNorm's results have its bias as mean and its weight as deviation.
    """
    random = torch.Generator().manual_seed(seed)
    *body, last = model  # type: ignore[misc]
    code = body[4].bn
    x = F.relu(code.bias + code.weight * torch.randn(number, code.num_features, generator=random))
    for layer in body[5:]:
        x = F.relu(layer.bn(layer(x)))
    restored: Tensor = last(x)
    return (restored + noise_db * torch.randn(restored.shape, generator=random)).clone()


def accuracy(forward: Forward, split: Split) -> float:
    """Top-1."""
    right = sum(int((forward(x).argmax(1) == y).sum()) for x, y in split.batches(100))
    return right / len(split)


# ------------------------------------------------------------------------------------------------------- the policies


def scores_of(case: Case, folder: Path) -> Scores:
    """One-at-a-time over the weights of all layers; inputs have 8 bits."""
    method = OneAtATime(
        bits=WIDTHS[::-1], images=case.scored, measure="loss" if case.wide else "kl", first_last=True, seed=SEED
    )
    found = method.search(case.task, run=folder, quiet=True)
    layers = {name: LayerScores(weight=one.weight, activation={8: 0.0}) for name, one in found.layers.items()}
    return replace(found, layers=layers)


def fit_flash(case: Case, scores: Scores, limit: int, options: COptions) -> Policy:
    """The policy of least harm whose image takes at most `limit` bytes of flash."""

    def lower_at(layers: Mapping[str, LayerBits]) -> IntegerGraph:
        policy = Policy(fingerprint=case.task.network.fingerprint, layers=dict(layers), method="at these bits")
        model = copy.deepcopy(case.task.model)
        quantize(model, policy, case.task.network)
        calibrate(model, [case.inputs])
        return lower(model.eval(), case.task.network, [case.inputs])

    memory = memory_table(case.task.network, lower_at, options=options)
    policy, _ = allocate(
        case.task.network, scores, Budget.parse([f"flash={limit}"]), AllocationSettings(pins={}, memory=memory)
    )
    return policy


# --------------------------------------------------------------------------------------------------- a row of the table


def towards_float(case: Case) -> Task:
    """The calibration samples with the float network's outputs in the place of labels, which no ptq row sees."""
    model = case.task.model
    x, _ = next(case.task.train.batches(2 * case.samples, seed=SEED, shuffle=True))
    with torch.inference_mode():
        wanted = model(x).clone()

    def loss(outputs: Tensor, numbers: Tensor) -> Tensor:
        if case.wide:
            return F.mse_loss(outputs, wanted[numbers]) / wanted.var()
        return distilled_loss(outputs, wanted[numbers], outputs.new_zeros(()), weight=1.0, temperature=1.0)

    split = Features(x, torch.arange(len(x)), len(x))
    return replace(case.task, train=split, test=split, loss=loss)


def quantized(case: Case, policy: Policy, how: How, folder: Path) -> nn.Module:
    """The network under a policy, ready to be lowered."""
    if how == "ptq":
        config = PTQConfig(
            method="lapq",
            joint="coordinate",
            per_channel=True,
            bias_correction=True,
            samples=case.samples,
            selection_samples=case.samples,
        )
        model = ptq(towards_float(case), policy, config, quiet=True).model
        fold_bias(model, [case.inputs])
        return model.eval()
    model = copy.deepcopy(case.task.model)
    quantize(model, policy, case.task.network, QuantizeConfig(weight_rule="mse"))
    calibrate(model, [case.inputs], "mse")
    train(
        model, case.task.train, None, case.recipe, run=folder, teacher=case.task.model, loss=case.task.loss, quiet=True
    )
    return model.eval()


def lowered(case: Case, policy: Policy, how: How, folder: Path) -> IntegerGraph:
    """As integers."""
    return lower(quantized(case, policy, how, folder), case.task.network, [case.inputs], rounding="single")


def facts_of(case: Case, graph: IntegerGraph, policy: Policy, options: COptions) -> dict[str, Any]:
    """What a row says: quality, sizes, instructions, exactness."""
    samples = next(case.task.test.batches(HOST_SAMPLES))[0].numpy()
    predicted, host = footprint(graph, options=options), verify_c(graph, samples, options=options)
    board = verify_board(graph, samples[:BOARD_SAMPLES], board=CORE, options=options)
    counts = count(graph, board=CORE, samples=samples[:COUNTED], options=options)
    bits = {name: one.weight_bits for name, one in policy.layers.items()}
    weights = {layer.name: int(np.prod(layer.weight_shape)) for layer in case.task.network.layers}
    return {
        "kernels": options.kernels,
        "quality": case.measure(lambda x: torch.from_numpy(executor.run(graph, x.numpy()))),
        "bits": bits,
        "mean_bits": sum(weights[name] * (one or 32) for name, one in bits.items()) / sum(weights.values()),
        "predicted": {**asdict(predicted), "flash": predicted.flash_bytes, "ram": predicted.ram_bytes},
        "measured": {"flash": counts.sizes.flash, "ram": counts.sizes.ram, "stack": counts.stack_bytes},
        "macs": sum(one.macs for one in counts.layers),
        "instructions": counts.instructions,
        "host": {"samples": host.samples, "layers": host.layers, "exact": host.exact},
        "board": {"core": board.core, "samples": board.samples, "exact": board.exact},
        "first_difference": host.first_difference or board.first_difference,
    }


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A row to be made: `part` of the 8-bit image's flash, with the same kernels; 1 is that image itself."""

    part: float
    kernels: Literal["plain", "dsp"] = "dsp"
    how: tuple[How, ...] = ("ptq", "tuned")

    @property
    def label(self) -> str:
        return f"{self.part:g}-{self.kernels}"


ROWS = (Wanted(part=1.0), Wanted(part=0.5))
MORE = {
    # With the code of dsp kernels, no bits fit half of this small image. So plain kernels, and two thirds with dsp.
    "ds-cnn": (
        Wanted(part=1.0),
        Wanted(part=2 / 3),
        Wanted(part=1.0, kernels="plain", how=("ptq",)),
        Wanted(part=0.5, kernels="plain"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One network, its results, and the folder of its scores, policies and trainings."""

    case: Case
    results: records.Results
    folder: Path
    smoke: bool

    @property
    def wanted(self) -> list[tuple[dict[str, Any], Wanted]]:
        """All rows by name; those of a part of the flash come after the whole that they are a part of."""
        rows = (Wanted(part=1.0, how=("ptq",)),) if self.smoke else MORE.get(self.case.name, ROWS)
        return [
            ({"network": self.case.name, "part": one.part, "kernels": one.kernels, "how": how}, one)
            for one in rows
            for how in one.how
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """Reused, or made now."""
        whole: dict[str, int] = {}
        for of, wanted in self.wanted:
            limit = None if wanted.part == 1 else int(whole[wanted.kernels] * wanted.part)
            row = self.results.row(of, lambda of=of, wanted=wanted, limit=limit: self.made(of["how"], wanted, limit))  # type: ignore[misc]
            if wanted.part == 1:
                flash = row["predicted"]["flash"]
                whole[wanted.kernels] = min(flash, whole.get(wanted.kernels, flash))
            yield row

    def made(self, how: How, wanted: Wanted, limit: int | None) -> dict[str, Any]:
        """One row."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = COptions(kernels=wanted.kernels)
        policy = _policy(self.case, wanted, limit, options, self.folder)
        graph = lowered(self.case, policy, how, self.folder / f"{wanted.label}-training")
        return {"limit": limit, **facts_of(self.case, graph, policy, options)}


def _policy(case: Case, wanted: Wanted, limit: int | None, options: COptions, folder: Path) -> Policy:
    if limit is None:
        return Policy.uniform(case.task.network, 8, 8, {})
    path = folder / f"{wanted.label}-policy.json"
    if not path.exists():
        fit_flash(case, scores_of(case, folder / "scores"), limit, options).save(path)
    return Policy.load(path)


def sources(name: str) -> dict[str, Path]:
    """What goes into a network's rows: weights and data."""
    data = {
        "resnet8": cifar10_folder(),
        "ds-cnn": shared_data() / "kws" / "speech_commands_mfcc_int8.npz",
        "mobilenetv1-0.25": shared_data() / "imagenet_ccby" / "nips17_ccby.npz",
    }
    weights = {"weights": shared_data() / "weights" / f"{WEIGHTS[name]}.safetensors"}
    return weights | ({"data": data[name]} if name in data else {})


def opened(name: str, given: argparse.Namespace, tools: dict[str, str]) -> Bench:
    """A network with the rows that the result file has."""
    case = CASES[name](smoke=given.smoke)
    case = replace(case, samples=8) if given.smoke else case
    settings = {"tools": tools, "core": CORE, "seed": SEED, "recipe": {**asdict(case.recipe), "samples": case.samples}}
    results = records.Results(
        NAME,
        settings=settings,
        inputs=sources(name),
        libraries=("torch", "numpy", "scipy"),
        fresh=given.fresh,
        smoke=given.smoke,
    )
    place = records.SMOKE if given.smoke else ROOT / "runs"
    folder = place / NAME / f"{name}-{results.key({'trained': name})}"
    return Bench(case=case, results=results, folder=folder, smoke=given.smoke)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=tuple(CASES), default=tuple(CASES))
    records.arguments(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tools = {"gcc": version_of(COMPILER), "qemu": version_of(EMULATOR), "flags": "-O2, -icount shift=0"}
    for name in [SMOKE] if given.smoke else given.networks:
        bench = opened(name, given, tools)
        case, path = bench.case, f"networks.{name}"
        if bench.results.plan([path, *(of for of, _ in bench.wanted)]):
            bench.results.facts(tools=tools, core=CORE)

        def facts(case: Case = case) -> dict[str, Any]:
            reference = case.measure(torch.inference_mode()(case.task.model))
            tuning = {key: value for key, value in asdict(case.recipe).items() if key in SHOWN}
            return {"data": case.data, "target": TARGETS[case.name], "float": reference, "tuning": tuning}

        print(name, "float", bench.results.part(path, facts)["float"], flush=True)
        for row in bench.rows():
            print(name, row["part"], row["kernels"], row["how"], row["quality"], row["measured"], flush=True)


SHOWN = ("epochs", "batch_size", "optimizer", "lr", "distill", "temperature")

if __name__ == "__main__":
    main()
