"""A small network for commands that need one: its file, its scores, and a run of it that nobody had to train."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mixbit.cost import LayerBits
from mixbit.policy import LayerScores, Policy, Scores, resolve_pins
from mixbit.quantization import QuantizeConfig, put_policy_on, quantizers
from mixbit.quantizers import BatchQuant
from mixbit.runs import ExportedC, Subject, _folder, export_c, training
from mixbit.task import Task

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, stride=2)
        self.left, self.right = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.left(x) + self.right(x)).mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Net()


def other():
    torch.manual_seed(1)
    return Net()
"""
"""`left` and `right` read one tensor; `stem` and `head` are pinned."""


@cache
def place() -> Path:
    """A folder of this process, which is gone with it."""
    folder = tempfile.mkdtemp(prefix="mixbit-commands-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def net() -> str:
    """The network as it is typed."""
    file = place() / "net.py"
    file.write_text(NET)
    return f"{file}:build"


@cache
def subject() -> Subject:
    """With digits."""
    return Subject(model=net(), data="digits")


@cache
def task() -> Task:
    """Captured once; nobody may change its model."""
    return subject().task()[0]


@cache
def scores() -> Path:
    """The folder of a search: harms by hand, where few activation bits harm `left` alone."""
    folder = place() / "search"
    weight = {8: 0.0, 4: 0.25, 2: 1.0}
    steep, flat = {8: 0.0, 4: 2.0, 2: 5.0}, {8: 0.0, 4: 0.01, 2: 0.02}
    network = task().network
    curves = {one.name: LayerScores(weight=weight, activation=flat) for one in network.layers}
    curves["left"] = LayerScores(weight=weight, activation=steep)
    found = Scores(fingerprint=network.fingerprint, method="fit", seed=0, layers=curves)
    settings = {"images": 8}
    _folder.begin(folder, {"command": "search", **subject().facts(), "method": "fit", "settings": settings})
    (folder / "network.json").write_text(network.to_json())
    found.save(folder / "scores.json")
    return folder


@cache
def policy() -> Path:
    """W3A4 within the pinned ends, but for the weights of `right` at 5 bits."""
    network = task().network
    found = Policy.uniform(network, 3, 4)
    layers = {**found.layers, "right": LayerBits(5, 4)}
    Policy(fingerprint=network.fingerprint, layers=layers, method="by hand").save(place() / "policy.json")
    return place() / "policy.json"


def fit(own: Task) -> None:
    """Give the network something to lose: its last layer is the best one in least squares for the others' outputs."""
    x, y = next(own.train.batches(512))
    seen: list[tuple[Tensor]] = []
    handle = own.model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.no_grad():
        own.model.eval()(x)
        handle.remove()
        features = torch.cat([seen[0][0], torch.ones(len(x), 1)], 1)
        found = torch.linalg.lstsq(features, 10 * torch.nn.functional.one_hot(y, 10).float()).solution
        own.model.head.weight.copy_(found[:-1].T)
        own.model.head.bias.copy_(found[-1])


def finished(folder: Path, bits: Path | None, *, fitted: bool = False) -> Path:
    """The run folder that a training under a policy leaves behind, or one in float; calibrated and not trained."""
    own, chosen = subject().task()[0], None
    if fitted:
        fit(own)
    if bits is not None:
        chosen = Policy.load(bits).check(own.network)
        put_policy_on(own.model, chosen, own, seed=0)
    layers = None if chosen is None else {n: [b.weight_bits, b.activation_bits] for n, b in chosen.layers.items()}
    _folder.begin(folder, {"command": "train", **subject().facts(), "settings": {}, "bits": layers})
    training._write(folder, own.model, own, chosen)
    return folder


def ranged_run(folder: Path) -> Task:
    """The same with BatchQuant for all inputs, whose zero points are no whole numbers; what it holds is given back."""
    own, chosen = subject().task()[0], Policy.load(policy())
    put_policy_on(own.model, chosen, own, seed=0, config=QuantizeConfig(activations="batchquant"))
    for bank in quantizers(own.model).values():
        if isinstance(bank, BatchQuant):
            bank.delta.data.fill_(0.4)
    layers = {n: [b.weight_bits, b.activation_bits] for n, b in chosen.layers.items()}
    settings = {"quantize": {"activations": "batchquant"}, "batch_size": 32, "bn_samples": 64, "augment": False}
    _folder.begin(folder, {"command": "train", **subject().facts(), "settings": settings, "bits": layers})
    training._write(folder, own.model, own, chosen)
    return own


@cache
def quantized_run() -> Path:
    """Under `policy`."""
    return finished(place() / "quantized", policy())


@cache
def float_run() -> Path:
    """In float32."""
    return finished(place() / "float", None)


@cache
def fitted_runs() -> tuple[Path, Path]:
    """In float32 and under `policy`, both with a last layer that was fitted: right on two fifths of the images."""
    return finished(place() / "fitted", None, fitted=True), finished(place() / "mixed", policy(), fitted=True)


def pinned() -> tuple[str, ...]:
    """Names of the first and the last layer."""
    return tuple(resolve_pins(task().network))


@cache
def written_c() -> ExportedC:
    """`quantized_run` as C, not compared."""
    return export_c(quantized_run(), place() / "c", images=0)
