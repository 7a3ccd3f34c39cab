"""Layer-wise SQNR: the power of a layer's quantization noise over that of its output, for each option.

Pandey et al. (arXiv 2302.05397) rank quantizers by the signal-to-quantization-noise ratio and lower bits greedily; the
AIMET toolkit has such an analysis. Ours: the noise is measured at the output of the layer itself, one side at a time,
as a ratio of powers (not in dB), and the bits come from exact allocation. No label and no loss is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit import _batch, _effort
from mixbit._progress import progress_bar
from mixbit._settings import Bits, Count, Seed, check
from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.methods._baseline import ladder, make_scores
from mixbit.methods.registry import register
from mixbit.network import Layer
from mixbit.policy import LayerScores, Scores
from mixbit.quantization import QuantizedLayer, quantized_layers
from mixbit.quantizers import RuleName
from mixbit.sensitivity.measuring import calibration_images, first_images, not_scored
from mixbit.sensitivity.perturbation import Perturbation, searched_layers
from mixbit.task import Task

__all__ = ["Sqnr", "noise_ratios"]


@register(
    "sqnr",
    "noise power over signal power at each layer's output",
    source="after Pandey et al., arXiv 2302.05397; layer outputs and exact allocation are ours",
    cost="forward",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Sqnr:
    """Noise-to-signal ratio of every option, averaged over calibration images.

    With `y` the float output of layer l for one image and `y_q` the same with one side quantized (weight: `Q_b(W)` on
    the float input; activation: the float weight on `Q_b(x)`), `harm = mean over images of ||y_q - y||^2 / ||y||^2`.
    The SQNR of an image in decibel is `-10 log10` of its ratio: a ratio of 0.01 is 20 dB, and each bit less costs about
    6 dB (a factor 4).

    All layers see the inputs of the float network, so the harms of two layers are independent of each other.

    Attributes:
        bits: candidate bit-widths of weights and activations.
        images: training images, the first of a shuffled pass without augmentation.
        measure: "output" as above, or "tensor": the same ratio of weight or input itself, `||Q(x) - x||^2 / ||x||^2`,
            which needs no pass through the layer.
        batch_size: images that go through the network together.
        per_channel: one weight step an output channel.
        rule: how steps are chosen.
        step_images: the first so many of the images set the steps of inputs.
        first_last: also score the first and the last layer.
        seed: of the choice of images.
    """

    bits: tuple[Bits, ...] = (8, 6, 5, 4, 3, 2)
    images: Count = 256
    measure: Literal["output", "tensor"] = "output"
    batch_size: Count = 128
    per_channel: bool = True
    rule: RuleName = "mse"
    step_images: Count = 32
    first_last: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """One pass of the images through the float network, each layer once more for every option; nothing to resume.

        Raises:
            MixbitError: a setting is not legal, or an output is not finite.
        """
        bits = ladder(self.bits)
        x, _ = calibration_images(task, self.images, self.seed)
        probe = Perturbation(
            task,
            bits,
            bits,
            first_images(x, self.step_images),
            first_last=self.first_last,
            per_channel=self.per_channel,
            weight_rule=self.rule,
            activation_rule=self.rule,
        )
        found = self._measure(probe, x, task, quiet)
        searched = [layer.name for layer in searched_layers(task.network, first_last=self.first_last)]
        return make_scores(
            task.network,
            self,
            method="sqnr",
            layers={
                la.name: LayerScores(
                    weight={b: found[la.name].mean("weight", b) for b in bits},
                    activation={b: found[la.name].mean("activation", b) for b in bits},
                )
                for la in probe.layers
            },
            found={
                "images_used": _batch.samples(x),
                "silent": {name: one.silent for name, one in found.items() if one.silent},
                "not_scored": not_scored(task, probe, searched),
            },
        )

    @torch.no_grad()
    def _measure(self, probe: Perturbation, x: Any, task: Task, quiet: bool) -> dict[str, _Ratios]:
        """One pass a batch; every searched layer looks at its input as the pass reaches it."""
        found = {layer.name: _Ratios(layer.name) for layer in probe.layers}
        total = sum(layer.macs for layer in task.network.layers)
        device = next(probe.model.parameters()).device
        parts = [part for part, _ in _batch.cut_all(x, None, self.batch_size)]
        with progress_bar("sqnr", len(parts), quiet=quiet) as advance, _watching(self, probe, found, total):
            for part in parts:
                _batch.call(probe.model, _batch.move(part, device))
                advance(1, "")
        return found


def noise_ratios(noisy: Tensor, clean: Tensor) -> Tensor:
    """`||noisy - clean||^2 / ||clean||^2` of each sample `(N, ...)`; NaN where a clean sample is all zero.

    >>> noise_ratios(torch.tensor([[1.1, 0.0]]), torch.tensor([[1.0, 0.0]]))      # 20 dB
    tensor([0.0100], dtype=torch.float64)
    """
    clean = clean.double().flatten(1)
    return (noisy.double().flatten(1) - clean).square().sum(1) / _nothing_to_nan(clean.square().sum(1))


def _nothing_to_nan(power: Tensor) -> Tensor:
    return torch.where(power > 0, power, torch.full_like(power, torch.nan))


@dataclass(slots=True)
class _Ratios:
    """Sums of a layer's ratios."""

    layer: str
    sums: dict[tuple[str, int], float] = field(default_factory=dict)
    counts: dict[tuple[str, int], int] = field(default_factory=dict)
    silent: int = 0
    """Images whose clean output is all zero; they have no ratio and are left out."""

    def add(self, side: str, bits: int, ratios: Tensor) -> None:
        heard = ratios[~ratios.isnan()]
        self.sums[side, bits] = self.sums.get((side, bits), 0.0) + float(heard.sum())
        self.counts[side, bits] = self.counts.get((side, bits), 0) + len(heard)

    def mean(self, side: str, bits: int) -> float:
        count = self.counts[side, bits]
        return self.sums[side, bits] / count if count else 0.0


@contextmanager
def _watching(settings: Sqnr, probe: Perturbation, found: dict[str, _Ratios], macs: int) -> Iterator[None]:
    """Every searched layer measures all its options when it is called."""
    carriers = quantized_layers(probe.model)
    handles = []
    for layer in probe.layers:
        look = partial(_look, settings, probe, layer, found[layer.name], layer.macs / macs)
        # A packed projection is part of its module's call, an output projection is a module that attention calls.
        handles.append(carriers[layer.name].register_forward_pre_hook(look))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _look(
    settings: Sqnr,
    probe: Perturbation,
    layer: Layer,
    found: _Ratios,
    share: float,
    module: nn.Module,
    inputs: Sequence[Tensor],
) -> None:
    """Measure all options of one layer on one batch of its inputs."""
    assert isinstance(module, QuantizedLayer)
    x = inputs[0]
    if settings.measure == "tensor":
        _look_at_tensors(settings.bits, probe, found, x)
        return
    clean = _output(layer, module, x)
    if not torch.isfinite(clean).all():
        raise MixbitError(f"the output of layer {layer.name!r} is not finite. Check the model and its images for NaN.")
    found.silent += int((clean.flatten(1) == 0).all(1).sum())
    for bits in settings.bits:
        for side, chosen in (("weight", LayerBits(bits, None)), ("activation", LayerBits(None, bits))):
            with probe.chosen({layer.name: chosen}):
                found.add(side, bits, noise_ratios(_output(layer, module, x), clean))
    # These calls go past the module, so that no hook sees them.
    _effort.count_forward(len(x) * share * (2 * len(settings.bits) + 1))


def _look_at_tensors(options: Sequence[int], probe: Perturbation, found: _Ratios, x: Tensor) -> None:
    weight = probe.weight(found.layer)
    if not torch.isfinite(x).all():
        raise MixbitError(f"the input of layer {found.layer!r} is not finite. Check the model and its images for NaN.")
    found.silent += int((x.flatten(1) == 0).all(1).sum())
    for bits in options:
        # The whole weight is one sample: its ratio is the same for every image.
        rounded = probe.quantized_weight(found.layer, bits)
        found.add("weight", bits, noise_ratios(rounded[None], weight[None]))
        with probe.chosen({found.layer: LayerBits(None, bits)}):
            found.add("activation", bits, noise_ratios(probe.input_bank(found.layer).forward(x), x))


def _output(layer: Layer, module: QuantizedLayer, x: Tensor) -> Tensor:
    """The layer's own output, without the rest of a module that does more (attention)."""
    if layer.kind != "attention_in_proj":
        return module.forward(x)  # type: ignore[no-any-return]
    assert isinstance(module, nn.MultiheadAttention)
    return F.linear(module.quantize_input(x), module.quantize_weight(module.in_proj_weight), module.in_proj_bias)
