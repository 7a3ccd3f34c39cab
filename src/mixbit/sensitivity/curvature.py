"""How sharply a loss bends in the weights and the inputs of layers: Hessian traces and gradients of single samples.

Everything is float32 and of the model in eval mode: batch norm is a fixed affine map, so samples do not see each other.
Second derivatives come from a backward pass through the backward pass. The second derivative of ReLU is 0 almost
everywhere, which is what autograd gives: a network of ReLUs is piecewise linear in the weights of one layer, and what
is left of that layer's block is the curvature of the loss in the outputs, seen through the layer's Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mixbit import _batch
from mixbit.data.base import Batch
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger
from mixbit.network import Layer
from mixbit.policy import Side
from mixbit.sensitivity.perturbation import Perturbation, searched_layers
from mixbit.task import Loss, Task, as_loss

__all__ = [
    "Hutchinson",
    "Key",
    "Mean",
    "Rows",
    "SampleGradients",
    "Taps",
    "elements",
    "fisher_traces",
    "listed",
    "measured_noise",
    "not_scored",
    "range_noise",
    "sample",
    "sample_gradients",
    "uniform_noise",
]

Key = tuple[str, Side]
"""A layer's weight or its input."""


def elements(layer: Layer, side: Side) -> int:
    """Number of weights, or of input elements of one sample."""
    return layer.weights if side == "weight" else math.prod(layer.input_shape)


def sample(task: Task, images: int, batch_size: int, seed: int) -> list[Batch]:
    """Training images drawn by `seed`, not augmented, in full batches of one size.

    At most `images` of them: as many as fill batches. A split of fewer images gives what it has.
    """
    size = min(batch_size, images, len(task.train))
    count = min(images, len(task.train)) // size
    return list(islice(task.train.batches(size, seed=seed, shuffle=True, augment=False), count))


class Taps:
    """The float model of a perturbation, run so that weights and inputs of its layers can be differentiated.

    An input is tapped where the layer's quantizer would change it. Layers that read one tensor have a tap each, so a
    derivative is of the loss through that layer alone.

    Attributes:
        keys: what is tapped, in execution order.
    """

    def __init__(self, perturbation: Perturbation, loss: Loss, sides: Sequence[Side]) -> None:
        self._perturbation, self._loss = perturbation, as_loss(loss)
        self.keys: tuple[Key, ...] = tuple((layer.name, side) for layer in perturbation.layers for side in sides)
        perturbation.model.requires_grad_(False)
        for name, side in self.keys:
            if side == "weight":
                perturbation.weight(name).requires_grad_(True)

    def run(self, x: Any, y: Any) -> tuple[Tensor, dict[Key, Tensor]]:
        """Mean loss of a batch, and the tapped tensors.

        Raises:
            MixbitError: the loss is not finite.
        """
        seen: dict[Key, Tensor] = {}
        for name, side in self.keys:
            if side == "weight":
                seen[name, side] = self._perturbation.weight(name)
        loss = self._forward(x, y, seen)
        if not math.isfinite(loss.item()):
            raise MixbitError(f"The loss on training images is {loss.item()}. Check the weights and the data.")
        return loss, {key: seen[key] for key in self.keys}

    def _forward(self, x: Any, y: Any, seen: dict[Key, Tensor]) -> Tensor:
        model = self._perturbation.model
        device = next(model.parameters()).device
        handles = [
            self._perturbation.input_bank(name).register_forward_hook(_tap(name, seen))
            for name, side in self.keys
            if side == "activation"
        ]
        try:
            # The fused kernels of attention have no second derivative; written out as two products it has.
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                return self._loss(_batch.call(model, _batch.move(x, device)), _batch.move(y, device))
        finally:
            for handle in handles:
                handle.remove()


def _tap(name: str, seen: dict[Key, Tensor]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that puts a node of its own between the tensor and this layer."""

    def hook(_bank: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        node = output.view_as(output) if output.requires_grad else output.detach().requires_grad_(True)
        seen[name, "activation"] = node
        return node

    return hook


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean and its standard error (None of a single value).

    >>> Mean.of([1.0, 5.0])
    Mean(value=3.0, error=2.0, count=2)
    """

    value: float
    error: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Mean of equally likely values; the error is their standard deviation over the root of their number."""
        count = len(values)
        value = math.fsum(values) / count
        if count == 1:
            return cls(value=value, error=None, count=1)
        variance = math.fsum((one - value) ** 2 for one in values) / (count - 1)
        return cls(value=value, error=math.sqrt(variance / count), count=count)


class Rows:
    """One row of estimates a draw; with a file, every row is saved when it is made, and a killed search goes on.

    Args:
        keys: names of the columns.
        path: the file, or None.
        facts: what a file must have been made with.

    Raises:
        StaleRun: the file was made with other facts.
        MixbitError: the file is malformed.
    """

    def __init__(self, keys: Sequence[Key], path: Path | None, facts: Mapping[str, Any]) -> None:
        self._keys = tuple(keys)
        before = [] if path is None else [path.with_suffix(".json")]
        self._draws = Ledger(path, "draws of this search", facts, before=before)
        self.rows = [self._row(str(at)) for at in range(len(self._draws))]

    def _row(self, key: str) -> list[float]:
        if key not in self._draws:
            raise MixbitError(f"{self._draws.path} lacks draw {key}, and has later ones. Remove it to begin anew.")
        row = self._draws.read(key, list[float])
        if len(row) != len(self._keys):
            raise MixbitError(
                f"{self._draws.path}, key {key!r}, has {len(row)} numbers, and there are {len(self._keys)} tensors. "
                "Remove it to begin anew."
            )
        return row

    def add(self, row: Mapping[Key, float]) -> None:
        """Append a row of finite numbers, and save."""
        for (name, side), value in row.items():
            if not math.isfinite(value):
                raise MixbitError(f"The curvature of {name!r}, {side}, is {value}. Check the weights and the data.")
        found = [row[key] for key in self._keys]
        self._draws.put(str(len(self.rows)), found)
        self.rows.append(found)

    def settled(self, tolerance: float) -> bool:
        """Whether the last row moved no column's mean by more than this part of it (plus 1e-6, as PyHessian)."""
        if len(self.rows) < 2:
            return False
        for column in zip(*self.rows, strict=True):
            before, now = math.fsum(column[:-1]) / (len(column) - 1), math.fsum(column) / len(column)
            if abs(now - before) > tolerance * (abs(before) + 1e-6):
                return False
        return True

    def means(self) -> dict[Key, Mean]:
        """Mean and standard error of every column."""
        return {key: Mean.of(column) for key, column in zip(self._keys, zip(*self.rows, strict=True), strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hutchinson:
    """Traces of the diagonal blocks of the Hessian: `E[v . H v]` over vectors `v` of random signs is `Tr(H)`.

    A draw takes the next batch and a vector of its own for every tensor. For a weight the Hessian is that of the mean
    loss of the batch. An input's Hessian is that of one sample's own loss, and the traces of the samples are averaged:
    in eval mode no sample's loss sees another's input, so one product gives them all.

    Attributes:
        draws: at most so many.
        tolerance: stop when a draw moves no tensor's running mean by more than this part of it. PyHessian's rule
            (there at most 100 draws and 1e-3, for the one trace of the whole network), asked of every tensor.
        joint: one product for all tensors at once instead of one a tensor. The blocks off the diagonal then add noise,
            though nothing on average.
        seed: of the vectors.
    """

    draws: int
    tolerance: float
    joint: bool
    seed: int

    def traces(
        self, taps: Taps, batches: Sequence[Batch], rows: Rows, advance: Callable[[int, str], None]
    ) -> dict[Key, Mean]:
        """Draw until the means are settled or `draws` is reached; rows that are there already are not made again."""
        advance(len(rows.rows), "")
        while len(rows.rows) < self.draws and not rows.settled(self.tolerance):
            at = len(rows.rows)
            loss, tensors = taps.run(*batches[at % len(batches)])
            rows.add(self._draw(loss, tensors, torch.Generator().manual_seed(self.seed * 1_000_003 + at)))
            advance(1, "")
        return rows.means()

    def _draw(self, loss: Tensor, tensors: Mapping[Key, Tensor], generator: torch.Generator) -> dict[Key, float]:
        chosen = list(tensors.values())
        gradients = torch.autograd.grad(loss, chosen, create_graph=True, materialize_grads=True)
        vectors = [_signs(tensor, generator) for tensor in chosen]
        together = [list(range(len(chosen)))] if self.joint else [[at] for at in range(len(chosen))]
        found: list[float] = []
        for part in together:
            found += _forms([gradients[at] for at in part], [chosen[at] for at in part], [vectors[at] for at in part])
        return dict(zip(tensors, found, strict=True))


def _signs(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs in the shape of `tensor`, drawn on the CPU so that every device gets the same."""
    return (torch.randint(2, tensor.shape, generator=generator) * 2 - 1).to(tensor)


def _forms(gradients: Sequence[Tensor], tensors: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[float]:
    """`v_l . (H v)_l` of every tensor, where `H` couples all tensors that are given together."""
    bent = [at for at, gradient in enumerate(gradients) if gradient.requires_grad]
    if not bent:  # the loss is linear in all of them
        return [0.0] * len(tensors)
    products = torch.autograd.grad(
        [gradients[at] for at in bent],
        list(tensors),
        [vectors[at] for at in bent],
        retain_graph=True,
        materialize_grads=True,
    )
    return [float((v * hv).sum(dtype=torch.float64)) for v, hv in zip(vectors, products, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGradients:
    """One sample: the tapped tensors, and the gradients of its own loss in them."""

    tensors: Mapping[Key, Tensor]
    gradients: Mapping[Key, Tensor]


def sample_gradients(taps: Taps, batches: Sequence[Batch]) -> Iterator[SampleGradients]:
    """Gradients of every single sample: one backward pass through a batch of one each."""
    for x, y in batches:
        for one, target in _batch.cut_all(x, y, 1):
            loss, tensors = taps.run(one, target)
            gradients = torch.autograd.grad(loss, list(tensors.values()), materialize_grads=True)
            yield SampleGradients(tensors=tensors, gradients=dict(zip(tensors, gradients, strict=True)))


def fisher_traces(taps: Taps, batches: Sequence[Batch], advance: Callable[[int, str], None]) -> dict[Key, Mean]:
    """Trace of the empirical Fisher matrix: the mean over samples of the squared norm of a sample's own gradient."""
    rows = Rows(taps.keys, None, {})
    for one in sample_gradients(taps, batches):
        rows.add({key: float(g.square().sum(dtype=torch.float64)) for key, g in one.gradients.items()})
        advance(1, "")
    return rows.means()


def measured_noise(perturbation: Perturbation, keys: Sequence[Key], x: Any) -> dict[Key, dict[int, float]]:
    """Mean squared quantization error of every tensor at every bit-width of its bank; inputs are those of `x`."""
    found: dict[Key, dict[int, float]] = {key: {} for key in keys}
    for name, side in keys:
        if side == "weight":
            weight = perturbation.weight(name).detach()
            for bits in perturbation.weight_bank(name).bits:
                found[name, side][bits] = _mean_square(perturbation.quantized_weight(name, bits) - weight)
    _input_noise(perturbation, found, x)
    return found


@torch.no_grad()
def _input_noise(perturbation: Perturbation, found: Mapping[Key, dict[int, float]], x: Any) -> None:
    """Fill in the activations, from one run of the float model."""

    def see(into: dict[int, float]) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(bank: Any, inputs: tuple[Tensor, ...]) -> None:
            bank.bypass = False
            for bits in bank.bits:
                bank.select(bits)
                into[bits] = _mean_square(bank.forward(inputs[0]) - inputs[0])
            bank.bypass = True

        return hook

    watched = [(name, into) for (name, side), into in found.items() if side == "activation"]
    handles = [perturbation.input_bank(name).register_forward_pre_hook(see(into)) for name, into in watched]
    try:
        if handles:
            _batch.call(perturbation.model, _batch.move(x, next(perturbation.model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()


def uniform_noise(perturbation: Perturbation, keys: Sequence[Key]) -> dict[Key, dict[int, float]]:
    """`step^2 / 12`, the power of an error spread evenly over a grid cell, averaged over the channels' steps."""
    found: dict[Key, dict[int, float]] = {}
    for name, side in keys:
        bank = perturbation.weight_bank(name) if side == "weight" else perturbation.input_bank(name)
        powers = (bank.steps.detach().double().square().mean(dim=1) / 12).tolist()
        found[name, side] = dict(zip(bank.bits, powers, strict=True))
    return found


@torch.no_grad()
def range_noise(perturbation: Perturbation, keys: Sequence[Key], x: Any) -> dict[Key, dict[int, float]]:
    """`((max - min) / (2^b - 1))^2` of the whole tensor, as FIT's public code has it: the width of a cell, squared.

    Args:
        perturbation: the model with its quantizers.
        keys: (layer, side).
        x: images that the ranges of inputs are of, in float.
    """
    found: dict[Key, dict[int, float]] = {key: {} for key in keys}

    def see(key: Key, bank: Any, tensor: Tensor) -> None:
        low, high = torch.aminmax(tensor)
        found[key].update({bits: ((float(high) - float(low)) / (2**bits - 1)) ** 2 for bits in bank.bits})

    with ExitStack() as stack:
        for key in keys:
            if key[1] == "weight":
                see(key, perturbation.weight_bank(key[0]), perturbation.weight(key[0]))
                continue
            hook = partial(lambda key, bank, inputs: see(key, bank, inputs[0]), key)
            stack.callback(perturbation.input_bank(key[0]).register_forward_pre_hook(hook).remove)
        _batch.call(perturbation.model, _batch.move(x, next(perturbation.model.parameters()).device))
    return found


def _mean_square(error: Tensor) -> float:
    return float(error.square().mean(dtype=torch.float64))


def listed(layers: Sequence[Layer], traces: Mapping[Key, Mean]) -> dict[str, dict[str, object]]:
    """Traces as they go into a score file: layer -> side -> trace, standard error and number of elements."""
    return {
        layer.name: {
            side: {"trace": mean.value, "standard_error": mean.error, "elements": elements(layer, side)}
            for (name, side), mean in traces.items()
            if name == layer.name
        }
        for layer in layers
    }


def not_scored(task: Task, scored: Sequence[Layer], *, first_last: bool) -> list[str]:
    """Searched layers that could not be scored, with the reason."""
    names = {layer.name for layer in scored}
    return [
        f"{layer.name}: its module cannot carry a quantizer"
        for layer in searched_layers(task.network, first_last=first_last)
        if layer.name not in names
    ]
