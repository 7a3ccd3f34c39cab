"""A policy onto a model: put quantizers on, calibrate them, switch bits, freeze, take them off."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit._modes import in_evaluation, in_training
from mixbit._settings import NotNegative, Positive, check
from mixbit.data import Read, inputs_of
from mixbit.errors import MixbitError, PolicyError
from mixbit.network import Layer, Network, Skipped
from mixbit.network.carriers import why_not
from mixbit.policy import Policy
from mixbit.quantization._calibration import Watch, far_from_float, seeded
from mixbit.quantization._layers import QuantizedLayer, leave_fused_paths, put_on, take_fused_paths, take_off
from mixbit.quantization.norms import refuse_rows, take_off_rows
from mixbit.quantizers import (
    ActivationKind,
    BatchQuant,
    GradientScale,
    Pact,
    Quantizer,
    RuleName,
    SampleRows,
    WeightKind,
    find_kind,
    find_rule,
)
from mixbit.task import Task

__all__ = [
    "CALIBRATION_SAMPLES",
    "QuantizeConfig",
    "attach",
    "calibrate",
    "check_calibrated",
    "detach",
    "fold_residuals",
    "freeze",
    "put_policy_on",
    "quantize",
    "quantized_layers",
    "quantizers",
]

CALIBRATION_SAMPLES = 256
"""Training samples of which a run takes its first activation steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeConfig:
    """How layers are quantized, whatever their bits.

    Attributes:
        per_channel: one step size an output channel for weights (activations always have one a tensor).
        gradient_scale: see `mixbit.quantizers.Quantizer`.
        weight_rule: initialisation of weight steps; "lsq+" is what LIMPQ's code does.
        activation_rule: initialisation of activation steps.
        step_range: clamp of the steps before use, or None.
        weights: kind of quantizer of the weights: "lsq", "lsq-clip" (KURE's authors' LSQ, which starts at `max |w|`),
            "midrise" (LSQ on a grid without a zero level) or "dorefa". All but "lsq" cannot be lowered to integers.
        activations: "lsq", "pact", "dorefa" or "batchquant" (a range that follows each batch, see
            `mixbit.quantizers.BatchQuant`). PACT and DoReFa clip at zero, so a tensor that can be negative gets "lsq"
            in their place (our completion).
        clip: where PACT's learned clip starts; None leaves it to calibration.
        clip_decay: weight decay of PACT's clip.
        ignore_dead: leave channels that are 0 in a whole batch out of BatchQuant's means (our completion).

    Raises:
        MixbitError: a kind of quantizer that there is not.
    """

    per_channel: bool = True
    gradient_scale: GradientScale = "features"
    weight_rule: RuleName = "lsq+"
    activation_rule: RuleName = "lsq"
    step_range: tuple[Positive, Positive] | None = None
    weights: WeightKind = "lsq"
    activations: ActivationKind = "lsq"
    clip: Positive | None = None
    clip_decay: NotNegative = 0.0
    ignore_dead: bool = False

    def __post_init__(self) -> None:
        check(self, room="quantize")
        find_kind(self.weights, "weights")
        find_kind(self.activations, "activations")
        if self.step_range is not None and self.step_range[0] > self.step_range[1]:
            raise MixbitError(
                f"quantize: step_range={self.step_range} is illegal. Legal: the lower bound, the upper one."
            )
        if self.activations != "pact" and (self.clip is not None or self.clip_decay):
            raise MixbitError(f"clip and clip_decay are PACT's, but activations={self.activations!r}. Leave them out.")
        if self.ignore_dead and self.activations != "batchquant":
            raise MixbitError(f"ignore_dead is BatchQuant's, but activations={self.activations!r}. Leave it out.")


_LOAD_HOOK = "_mixbit_load_hook"
AS_SAID = "as the policy says"
"""The reason of a layer that is in float by intent."""

BitOptions = Mapping[str, tuple[Sequence[int] | None, Sequence[int] | None]]
"""Layer name -> candidate weight bits and activation bits; None leaves that side in float."""


def quantize(
    model: nn.Module, policy: Policy, network: Network, config: QuantizeConfig = QuantizeConfig()
) -> tuple[Skipped, ...]:
    """Put quantizers onto `model`, in place, as `policy` says; weights are initialised, activations need `calibrate`.

    A layer that the policy gives bits, but that cannot be turned, is also warned of: costs count it at its bits.

    Returns:
        What stays in float, with the reason.

    Raises:
        PolicyError: the policy is of another model, or its bits are illegal.
    """
    policy.check_layers(network)
    options: dict[str, tuple[list[int] | None, list[int] | None]] = {
        name: ([b.weight_bits] if b.weight_bits else None, [b.activation_bits] if b.activation_bits else None)
        for name, b in policy.layers.items()
    }
    left = attach(model, network, options, config)
    refused = [f"{one.name} ({one.reason})" for one in left if one.name in options and AS_SAID not in one.reason]
    if refused:
        warnings.warn(
            f"{len(refused)} layers stay in float against the policy: {'; '.join(refused)}. Costs count them at the "
            "policy's bits. Capture the model again as it is now, or pin these layers at W32A32.",
            stacklevel=2,
        )
    return left


def attach(
    model: nn.Module, network: Network, options: BitOptions, config: QuantizeConfig = QuantizeConfig()
) -> tuple[Skipped, ...]:
    """Put a bank of quantizers, one a candidate bit-width, onto every layer that `options` names, in place.

    Returns:
        What stays in float, with the reason: skipped by capture, not named, or impossible to turn.
    """
    unknown = set(options) - {layer.name for layer in network.layers}
    if unknown:
        raise PolicyError(f"layers {sorted(unknown)} are not in this network. Legal: its {len(network.layers)} layers.")
    left = list(network.skipped)
    for layer in network.layers:
        left.extend(_attach_layer(model, layer, options.get(layer.name, (None, None)), config))
    _turn_attention_parents(model)
    leave_fused_paths(model)
    if _LOAD_HOOK not in model.__dict__:
        model.__dict__[_LOAD_HOOK] = cast(Any, model).register_load_state_dict_pre_hook(refuse_rows)
    return tuple(left)


def _attach_layer(
    model: nn.Module, layer: Layer, bits: tuple[Sequence[int] | None, Sequence[int] | None], config: QuantizeConfig
) -> Iterator[Skipped]:
    weight_bits, activation_bits = bits
    module = _owner(model, layer)
    reason = why_not(model, layer.parameter)
    if reason is None and (weight_bits or activation_bits):
        weight = model.get_parameter(layer.parameter)
        bad = int((~torch.isfinite(weight)).sum())
        if bad:
            raise MixbitError(
                f"layer {layer.name!r}: {bad} of its {weight.numel()} weights are NaN or infinite. "
                "Load weights that are finite before quantizing."
            )
        put_on(module, _weight_bank(weight, weight_bits, config), _input_bank(layer, weight, activation_bits, config))
    if reason is not None or not (weight_bits and activation_bits):
        sides = [s for s, b in (("weight", weight_bits), ("input", activation_bits)) if reason is not None or not b]
        yield Skipped(name=layer.name, reason=f"{' and '.join(sides)} in float: {reason or AS_SAID}")


def _owner(model: nn.Module, layer: Layer) -> nn.Module:
    return model.get_submodule(layer.parameter.rpartition(".")[0])


def _weight_bank(weight: Tensor, bits: Sequence[int] | None, config: QuantizeConfig) -> Quantizer | None:
    if not bits:
        return None
    channels = weight.shape[0] if config.per_channel else 1
    bank = find_kind(config.weights, "weights")(
        bits, signed=True, channels=channels, gradient_scale=config.gradient_scale, step_range=config.step_range
    ).to(weight.device)
    bank.initialise(weight, find_rule(config.weight_rule))
    return bank


def _input_bank(layer: Layer, weight: Tensor, bits: Sequence[int] | None, config: QuantizeConfig) -> Quantizer | None:
    if not bits:
        return None
    kind = find_kind(config.activations, "activations")
    if layer.input_signed and not kind.signed_inputs:
        kind = Quantizer
    own: dict[str, Any] = {}
    if issubclass(kind, Pact):
        own = {"alpha": config.clip, "decay": config.clip_decay}
    elif issubclass(kind, BatchQuant):  # a linear layer's features are last, whatever stands before them
        own = {"ignore_dead": config.ignore_dead, "channel_axis": -1 if weight.dim() == 2 else 1}
    return kind(
        bits,
        signed=layer.input_signed,
        gradient_scale=config.gradient_scale,
        batched=True,
        step_range=config.step_range,
        **own,
    ).to(weight.device)


def _turn_attention_parents(model: nn.Module) -> None:
    """A quantized output projection is only called as a module by the quantized attention around it."""
    for module in list(model.modules()):
        turned = isinstance(module, QuantizedLayer) or not isinstance(module, nn.MultiheadAttention)
        if not turned and isinstance(module.out_proj, QuantizedLayer):
            put_on(module, None, None)


def detach(model: nn.Module) -> None:
    """Take all quantizers off: the model is what it was, bit for bit, with the weights that it has now.

    Norms that were made switchable become ordinary ones again, each with what the row in use has learned.

    Raises:
        MixbitError: such norms use several rows at once, a row a sample. Nothing was taken off then.
    """
    take_off_rows(model)
    hook = model.__dict__.pop(_LOAD_HOOK, None)
    if hook is not None:
        hook.remove()
    for module in list(model.modules()):
        if isinstance(module, QuantizedLayer):
            take_off(module)
    take_fused_paths(model)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Layer name (as in `Network.layers`) -> the module that carries its quantizers."""
    return {
        _layer_name(name, module): module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer)
    }


def _layer_name(path: str, module: nn.Module) -> str:
    """As capture calls it; a model that is one layer has no path."""
    if isinstance(module, nn.MultiheadAttention):
        return f"{path}.in_proj".removeprefix(".")
    return path or "weight"


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Full name -> quantizer, for weights and inputs alike."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}


def freeze(model: nn.Module, *, frozen: bool = True) -> None:
    """Stop (or resume) the learning of all step sizes, and of what kinds of quantizers have in their place."""
    for quantizer in quantizers(model).values():
        quantizer.learn(not frozen)


def fold_residuals(model: nn.Module) -> dict[str, float]:
    """Put plain quantizers in the place of all `BatchQuant`s, in place, on grids with whole zero points.

    The network is then one of learned steps and zero points as any other: it is lowered, exported, stressed and trained
    so. What rounding takes from the zero points moves what comes behind, so make the statistics of its batch norms anew
    (`mixbit.evaluation.reestimate_batch_norm`), on batches of the size that was trained on.

    Args:
        model: calibrated, of one bit-width a layer (`mixbit.supernet.settle`).

    Returns:
        Name of the quantizer -> how far its zero point moved, in steps: 0 to 0.5, or more where the range of integers
        ends. A model without any gives none.

    Raises:
        MixbitError: several bit-widths, or ranges that were never frozen. Nothing was folded then.
    """
    folded: dict[str, tuple[Quantizer, float]] = {}
    for name, bank in quantizers(model).items():
        if isinstance(bank, BatchQuant):
            try:
                folded[name] = bank.fold()
            except MixbitError as error:
                raise MixbitError(f"{name}: {error}") from error
    for name, (plain, _) in folded.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, plain)
    return {name: moved for name, (_, moved) in folded.items()}


@torch.no_grad()
def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    rule: RuleName = "lsq",
    *,
    every_row: bool = True,
    forward: Callable[[nn.Module, Any], object] | None = None,
    read: Read | None = None,
    seed: int = 0,
) -> None:
    """Set all activation steps from real inputs, in the order of execution, each layer seeing quantized inputs.

    Banks are calibrated at every one of their bit-widths, or only at those in use. The model runs in training mode,
    as in the first training step, with batch norms that the user froze still frozen; all statistics and modes are left
    as they were, and so is what is selected a sample or mixed. Several batches are averaged, and so are ranks.

    At the end the model runs once more on the first batch, in evaluation mode. Every quantizer must be called both
    times: what is attached is used. Warnings tell of inputs below zero that an unsigned quantizer clips, and of a
    network at 8 bits whose outputs are far from those in float.

    Args:
        model: with quantizers on.
        batches: inputs, at least one batch: each a tensor `(N, ...)`, a tuple of positional arguments or a dict of
            keyword arguments, see `mixbit.data.Batch`. Of a loader of (inputs, targets) the inputs are taken.
        rule: see `mixbit.quantizers.RULES`.
        every_row: False calibrates only the bit-widths that are selected now.
        forward: how to run the model on a batch; the default calls it with these arguments.
        read: how a batch is read that is neither, see `mixbit.data.read_keys`.
        seed: of what the model draws meanwhile, such as dropout; the generators are then put back.

    Raises:
        MixbitError: no batch, or one that is empty or that the model cannot take; several bits in use at once, of
            which `every_row=False` is to take one; numbers that are not finite; a
            quantizer that was never called. The message names the layer.
    """
    layers = quantized_layers(model)
    inputs = [m.input_quantizer for m in layers.values() if m.input_quantizer is not None]
    run = forward or _batch.call
    device = next(iter(model.parameters()), torch.empty(0)).device
    rounds, count = max((len(q.bits) for q in inputs), default=0) if every_row else 1, 0
    first: Any = None
    with seeded(device, seed), _one_for_all(model, every_row), Watch(model, layers) as watch:
        with _calibrating(model, inputs, rule):
            for batch in inputs_of(batches, model, read):
                watch.batch = _batch.move(batch, device)
                first = watch.batch if not count else first
                count += 1
                for row in range(rounds):
                    if every_row:
                        _select_row(model, row)
                    run(model, watch.batch)
        if not count and inputs:
            raise MixbitError("calibration got no batch. Give at least one batch of inputs.")
        if not inputs:
            return
        watch.check_called("calibration")
        _look_again(model, watch, lambda: run(model, first), seed)


def put_policy_on(
    model: nn.Module, policy: Policy, task: Task, *, seed: int, config: QuantizeConfig | None = None
) -> None:
    """Quantize `model` in place, and calibrate its activations on `CALIBRATION_SAMPLES` training samples of the task.

    Args:
        model: the task's, or a copy of it.
        policy: bits of every layer.
        task: gives the network and the samples.
        seed: of the samples that are drawn.
        config: how layers are quantized.
    """
    config = QuantizeConfig() if config is None else config
    quantize(model, policy, task.network, config)
    calibrate(model, [task.calibration(CALIBRATION_SAMPLES, seed)], config.activation_rule, seed=seed)


def _look_again(model: nn.Module, watch: Watch, run: Callable[[], object], seed: int) -> None:
    """The first batch once more, in the mode in which the network will be evaluated."""

    def same() -> object:
        torch.manual_seed(seed)
        return run()

    watch.called.clear()
    with in_evaluation(model):
        same()
        watch.check_called("evaluation mode")
        told = (watch.negatives(), far_from_float(model, quantized_layers(model), same))
    for text in told:
        if text is not None:
            warnings.warn(text, stacklevel=4)


def check_calibrated(model: nn.Module) -> None:
    """Raise if a bank in use was never calibrated: its steps would be those that it was made with.

    Raises:
        MixbitError: the message names the quantizers. A model without quantizers is fine.
    """
    never = [name for name, bank in quantizers(model).items() if not bank.bypass and bank.never_set]
    if never:
        more = f" and {len(never) - 3} more" if len(never) > 3 else ""
        raise MixbitError(
            f"{len(never)} quantizers were never calibrated: {', '.join(never[:3])}{more}. "
            "Call mixbit.calibrate(model, batches), or load a state that was."
        )


def _select_row(model: nn.Module, row: int) -> None:
    """All banks to the row of that number, as in the uniform passes of joint training; shorter ones to their last."""
    for quantizer in quantizers(model).values():
        quantizer.use_row(min(row, len(quantizer.bits) - 1))


@contextmanager
def _one_for_all(model: nn.Module, every_row: bool) -> Iterator[None]:
    """Set aside which bits each sample has, in banks and in norms, and what is mixed: batches here are other ones."""
    samples = [(m, rows) for m in model.modules() if isinstance(rows := getattr(m, "rows", None), SampleRows)]
    mixed = [(q, q.mixture) for q in quantizers(model).values() if q.mixture is not None]
    if (samples or mixed) and not every_row:
        raise MixbitError(
            "calibration with every_row=False of a model that has several bits in use at once, a sample or mixed. "
            "Select one bit-width a layer first, or calibrate every row."
        )
    try:
        for module, _ in samples:
            module.rows = None  # type: ignore[assignment]
        for quantizer, _ in mixed:
            quantizer.mixture = None
        yield
    finally:
        for module, rows in samples:
            module.rows = rows  # type: ignore[assignment]
        for quantizer, mixture in mixed:
            quantizer.mixture = mixture


@contextmanager
def _calibrating(model: nn.Module, inputs: Sequence[Quantizer], rule: RuleName) -> Iterator[None]:
    """Observe in training mode; batch-norm buffers, modes and selected rows are put back afterwards.

    Kinds with statistics of their own make these instead of what the rule says.
    """
    buffers = {n: b.clone() for n, b in model.named_buffers() if "running_" in n or n.endswith("num_batches_tracked")}
    rows = [(q, q.index.clone()) for q in quantizers(model).values()]
    for quantizer in inputs:
        quantizer.rule = find_rule(rule)
        quantizer.forget()
    try:
        with in_training(model), ExitStack() as stack:
            for name, quantizer in reversed(quantizers(model).items()):  # left in their order: the first one speaks
                stack.enter_context(quantizer.statistics_anew(name))
            yield
    finally:
        for quantizer in inputs:
            quantizer.rule = None
        for quantizer, index in rows:
            quantizer.index.copy_(index)
        for name, saved in buffers.items():
            model.get_buffer(name).copy_(saved)
