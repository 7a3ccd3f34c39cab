"""LIMPQ: step sizes learned at all bit-widths jointly are layer importances (Tang et al., ECCV 2022, arXiv 2203.08368).

The pipeline: put a bank of LSQ quantizers, one a candidate bit-width, onto every searched layer; train all bit-widths
jointly for a few epochs; read the learned step sizes. A larger step is a coarser grid: that tensor loses more at
those bits and wants more of them. `mixbit.allocation.allocate` minimises the sum of `s_a + alpha * s_w` under the
budget.

The defaults follow the authors' released code. Options that are called ours are not the paper's, and need
`faithful=False`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit._modes import in_evaluation
from mixbit._settings import Bits, Count, Epochs, NotNegative, Part, Positive, Seed, Share, check
from mixbit.errors import MixbitError
from mixbit.methods._settings import plain_settings
from mixbit.methods.registry import register
from mixbit.network import Layer
from mixbit.policy import LayerBits, LayerScores, Scores
from mixbit.quantization import QuantizeConfig, attach, calibrate, quantized_layers, quantizers
from mixbit.quantizers import GradientScale, Quantizer
from mixbit.sensitivity.perturbation import searched_layers
from mixbit.supernet import PerLayer, Uniform, make_switchable, select
from mixbit.task import Task
from mixbit.training import StepContext, TrainConfig, train

__all__ = ["Limpq", "LimpqInit"]

_SMOOTHING = 0.1
"""Of labels, as released."""


@register(
    "limpq",
    "learned step sizes at all bit-widths as importance",
    source="Tang et al., ECCV 2022, arXiv 2203.08368",
    cost="training",
)
@dataclass(frozen=True, slots=True, kw_only=True)
class Limpq:
    """LIMPQ's indicators: importance of bits, learned in one joint training.

    Attributes:
        bits: candidate bit-widths of weights and activations, in the order of the uniform passes.
        alpha: weight of weight indicators against activation indicators (released code: 2).
        epochs: of joint training (released: 5 for ResNet-18, 3 for ResNet-50; the authors say 3 to 10 are enough).
        fraction: part of the training data (the authors say half is enough).
        batch_size: samples of a step.
        lr: of weights and step sizes alike; cosine to 1e-5 that moves between epochs.
        weight_decay: of weights only.
        label_smoothing: of the loss; None for 0.1, as released, where the task's loss can smooth, and else for 0.
        clip_value: element-wise clip of the summed gradients.
        first_last: also search the first and the last layer (released code: both stay float and are pinned at 8 bits
            later).
        faithful: refuses the options below that are called ours, and changes nothing else. As released, in any case:
            unscaled sum of the n + 1 gradients, steps clamped to [1e-5, 1]; and unless an option below says otherwise,
            one draw a layer for weight and activation in the random pass, only convolutions drawn, gradient scale by
            the whole batch.
        independent_draws: our option: weight and activation bits drawn separately in the random pass, linear layers
            too.
        normalise: our option: indicators divided by the standard deviation of their weight tensor, or by the root
            mean square of their input, so that rescaling a tensor does not change its importance.
        step_lr: our option: a learning rate of their own for step sizes (None: `lr`).
        gradient_scale: of steps: "numel", by the elements of the whole batch, as released; "features", by those of one
            sample, as LSQ counts, is our option here.
        precision: "float32", or "bf16" autocast.
        seed: of data order and draws.
    """

    bits: tuple[Bits, ...] = (6, 5, 4, 3, 2)
    alpha: NotNegative = 2.0
    epochs: Epochs = 3
    fraction: Part = 0.5
    batch_size: Count = 128
    lr: Positive = 0.01
    weight_decay: NotNegative = 2.5e-5
    label_smoothing: Share | None = None
    clip_value: Positive = 1.0
    first_last: bool = False
    faithful: bool = True
    independent_draws: bool = False
    normalise: bool = False
    step_lr: Positive | None = None
    gradient_scale: Literal["numel", "features"] = "numel"
    precision: Literal["float32", "bf16"] = "float32"
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)
        named = ("independent_draws", "normalise", "step_lr", "gradient_scale")
        ours = [name for name in named if getattr(self, name) not in (False, None, "numel")]
        if self.faithful and ours:
            raise MixbitError(
                f"faithful=True excludes {', '.join(ours)}, which the paper does not have. "
                "Set faithful=False to use them."
            )

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Train the indicators on a copy of the task's model and read them."""
        settings, note = self._smoothed(task)
        model, searched = prepare(task, settings)
        make_switchable(model, task.example())
        calibrate_indicators(model, task, settings)
        step = _JointStep(model, searched, settings)
        train(
            model,
            task.train,
            None,
            settings.training(),
            run=run,
            loss=task.objective,
            step=step,
            penalty=task.penalty,
            quiet=quiet,
            label="indicators",
        )
        scores = read_indicators(model, task, settings, method="limpq")
        return scores if note is None else replace(scores, settings={**scores.settings, "notes": [note]})

    def _smoothed(self, task: Task) -> tuple[Limpq, str | None]:
        """The settings with the label smoothing that the task's loss can take, and what there is to note of it."""
        if self.label_smoothing is not None:
            return self, None
        loss = task.objective.loss
        if loss.smooths:
            return replace(self, label_smoothing=_SMOOTHING), None
        note = f"labels are not smoothed by {_SMOOTHING}, as released: the loss {loss.name!r} takes no label_smoothing."
        return replace(self, label_smoothing=0.0), note

    def training(self) -> TrainConfig:
        """The settings of the joint training in the terms of the one loop."""
        return TrainConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            step_lr=self.step_lr,
            weight_decay=self.weight_decay,
            final_lr=min(1.0, 1e-5 / self.lr),
            schedule="epoch",
            label_smoothing=_SMOOTHING if self.label_smoothing is None else self.label_smoothing,
            clip_value=self.clip_value,
            drop_zero_gradients=True,
            bn_samples=0,
            fraction=self.fraction,
            precision=self.precision,
            seed=self.seed,
        )


@register("limpq-init", "the starting values of limpq's indicators, no training", source="ours", cost="forward")
@dataclass(frozen=True, slots=True, kw_only=True)
class LimpqInit:
    """LIMPQ without its training: step sizes as LSQ initialises them from weights and one batch of inputs.

    Our ablation: the released ResNet-50 indicators lie close to their starting formula, so training must show that it
    adds something. Attributes as in `Limpq`.
    """

    bits: tuple[Bits, ...] = (6, 5, 4, 3, 2)
    alpha: NotNegative = 2.0
    batch_size: Count = 128
    first_last: bool = False
    normalise: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
        """Initialise the indicators and read them; `run` and `quiet` are not needed."""
        model, _ = prepare(task, self)
        calibrate_indicators(model, task, self)
        return read_indicators(model, task, self, method="limpq-init")


Settings = Limpq | LimpqInit


def prepare(task: Task, settings: Settings) -> tuple[nn.Module, tuple[Layer, ...]]:
    """A copy of the model with banks on every searched layer, and those layers in execution order."""
    searched = searched_layers(task.network, first_last=settings.first_last)
    model = copy.deepcopy(task.model)
    scale: GradientScale = settings.gradient_scale if isinstance(settings, Limpq) else "numel"
    config = QuantizeConfig(per_channel=False, gradient_scale=scale, step_range=(1e-5, 1.0))
    attach(model, task.network, {layer.name: (settings.bits, settings.bits) for layer in searched}, config)
    on = quantized_layers(model)
    return model, tuple(layer for layer in searched if layer.name in on)


def calibrate_indicators(model: nn.Module, task: Task, settings: Settings) -> None:
    """Activation steps from the first training batch at each bit-width, with all layers at that bit-width."""
    device = next(model.parameters()).device
    part = settings.fraction if isinstance(settings, Limpq) else 1.0  # the batch that the training sees first
    batches = task.train.batches(settings.batch_size, seed=settings.seed, shuffle=True, augment=True, fraction=part)
    x = _batch.move(_batch.first_samples(batches, settings.batch_size)[0], device)
    for bits in settings.bits:
        select(model, Uniform(bits))
        calibrate(model, [x], "lsq", every_row=False, seed=settings.seed)


class _JointStep:
    """n uniform passes and one random pass; their gradients are summed (the released code does not divide them)."""

    def __init__(self, model: nn.Module, searched: Sequence[Layer], settings: Limpq) -> None:
        self.model, self.settings = model, settings
        drawn = [la for la in searched if settings.independent_draws or la.kind.startswith("conv")]
        self.drawn = [la.name for la in drawn]

    def __call__(self, context: StepContext, x: Any, y: Any) -> Tensor:
        losses = []
        for bits in self.settings.bits:
            select(self.model, Uniform(bits))
            losses.append(self._pass(context, x, y))
        self._draw(context.number)
        losses.append(self._pass(context, x, y))
        return torch.stack(losses).mean()

    def _pass(self, context: StepContext, x: Any, y: Any) -> Tensor:
        loss = context.loss(x, context.forward(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _draw(self, number: int) -> None:
        """Random bits for every drawn layer, a function of seed and step alone: all ranks and resumed runs agree."""
        options = self.settings.bits
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + number)
        rows = torch.randint(len(options), (2, len(self.drawn)), generator=generator).tolist()
        weight, activation = rows if self.settings.independent_draws else (rows[0], rows[0])
        bits = {n: LayerBits(options[w], options[a]) for n, w, a in zip(self.drawn, weight, activation, strict=True)}
        select(self.model, PerLayer(bits))


def read_indicators(model: nn.Module, task: Task, settings: Settings, *, method: str) -> Scores:
    """The step sizes of every searched layer as scores; a wider step is more harm."""
    scale = _scales(task, settings) if settings.normalise else {}
    layers = {}
    for name, layer in quantized_layers(model).items():
        weight_scale, input_scale = scale.get(name, (1.0, 1.0))
        assert layer.weight_quantizer is not None and layer.input_quantizer is not None
        layers[name] = LayerScores(
            weight=_indicator(layer.weight_quantizer, weight_scale),
            activation=_indicator(layer.input_quantizer, input_scale),
        )
    ordered = {layer.name: layers[layer.name] for layer in task.network.layers if layer.name in layers}
    return Scores(
        fingerprint=task.network.fingerprint,
        method=method,
        seed=settings.seed,
        alpha=settings.alpha,
        layers=ordered,
        settings=plain_settings(settings) | {"steps_out_of_range": _out_of_range(model)},
    )


def _out_of_range(model: nn.Module) -> list[str]:
    """Indicators that training drove out of the clamp: they get no gradient any more, so they stopped learning."""
    found = []
    for name, quantizer in quantizers(model).items():
        low, high = quantizer.step_range or (0.0, float("inf"))
        steps = quantizer.steps.detach().mean(dim=1).tolist()
        found += [
            f"{name} at {b} bits: {s:.4g}" for b, s in zip(quantizer.bits, steps, strict=True) if not low <= s <= high
        ]
    return found


def _indicator(bank: Quantizer, scale: float) -> dict[int, float]:
    steps = bank.steps.detach().mean(dim=1).tolist()
    return {bits: step / scale for bits, step in zip(bank.bits, steps, strict=True)}


@torch.no_grad()
def _scales(task: Task, settings: Settings) -> dict[str, tuple[float, float]]:
    """Layer name -> (standard deviation of its weight, root mean square of its input on one float batch)."""
    # At quantizers that are bypassed: PyTorch's attention never calls the module of its output projection, but the
    # quantized attention calls that layer's quantizer.
    model, searched = prepare(task, settings)
    layers, found = quantized_layers(model), dict[str, tuple[float, float]]()

    def watch(layer: Layer) -> Any:
        def hook(_bank: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            weight = task.model.get_parameter(layer.parameter)
            found[layer.name] = (float(weight.std()) or 1.0, float(inputs[0].square().mean().sqrt()) or 1.0)

        return hook

    for layer in searched:
        bank = layers[layer.name].input_quantizer
        assert bank is not None
        bank.register_forward_pre_hook(watch(layer))
    for quantizer in quantizers(model).values():
        quantizer.bypass = True
    with in_evaluation(model):
        _batch.call(model, task.example(settings.batch_size))
    missing = [layer.name for layer in searched if layer.name not in found]
    if missing:
        raise MixbitError(
            f"normalise: one batch did not reach the inputs of {', '.join(missing)}, so their scale is not known. Give "
            "batches that reach all layers, or set normalise=False."
        )
    return found
