"""What calibration looks at beside steps: that all quantizers are called, what they see, how far from float it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch
from mixbit.errors import MixbitError
from mixbit.quantization._layers import QuantizedLayer, as_float
from mixbit.quantizers import Quantizer

FAR = 0.3
"""Root mean square of what 8 bits change, as a part of the float outputs' deviation from their mean: 10 dB."""

SIDES = {"weight_quantizer": "weight", "input_quantizer": "input"}


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random draws of PyTorch follow from `seed` inside, and go on afterwards where they were before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Watch:
    """Looks at every tensor that reaches a quantizer while the model runs inside the `with` block.

    Attributes:
        called: (layer, side) of the quantizers that were called.
        lowest: layer -> the lowest value that reached an unsigned input quantizer, if it was below 0.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, QuantizedLayer]) -> None:
        self._model, self._layers = model, layers
        self._banks = {
            (layer, side): bank
            for layer, module in layers.items()
            for child, side in SIDES.items()
            if isinstance(bank := getattr(module, child), Quantizer)
        }
        self.called: set[tuple[str, str]] = set()
        self.lowest: dict[str, float] = {}
        self.batch: Any = None

    def __enter__(self) -> Watch:
        self._stack = ExitStack()
        for place, bank in self._banks.items():
            handle = bank.register_forward_pre_hook(self._hook(place))
            self._stack.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _hook(self, place: tuple[str, str]) -> Callable[..., None]:
        def see(bank: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(bank, Quantizer)
            self.called.add(place)
            x = inputs[0].detach()
            if not x.numel():
                return
            low, high = (float(bound) for bound in torch.aminmax(x))
            if not (abs(low) < float("inf") and abs(high) < float("inf")):
                raise self._not_finite(place, x)
            layer, side = place
            clips = not (bank.signed or bank.affine or bank.zero_points.any())
            if side == "input" and low < 0 and clips:
                self.lowest[layer] = min(low, self.lowest.get(layer, 0.0))

        return see

    def _not_finite(self, place: tuple[str, str], x: Tensor) -> MixbitError:
        layer, side = place
        bad = int((~torch.isfinite(x)).sum())
        return MixbitError(
            f"calibration: {bad} of {x.numel()} numbers of the {side} of layer {layer!r} are NaN or infinite, and it "
            f"is the first layer that sees such; {self._source()}"
        )

    def _source(self) -> str:
        """Where numbers that are not finite come from, as far as it can be seen."""
        if not all(bool(torch.isfinite(t).all()) for t in _batch.tensors(self.batch) if t.is_floating_point()):
            return "the batch itself holds them. Clean the data."
        for name, tensor in (*self._model.named_parameters(), *self._model.named_buffers()):
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                return f"{name!r} holds them. Mend the weights or statistics, e.g. load them anew."
        return "the data and the weights are finite, so a layer before it makes them. Look at the operations between."

    def check_called(self, when: str) -> None:
        """Raise if a quantizer was not called: it would be reported, and its side run in float.

        Raises:
            MixbitError: the message names the layers.
        """
        missed: dict[str, list[str]] = {}
        for layer, side in self._banks:
            if (layer, side) not in self.called:
                missed.setdefault(layer, []).append(side)
        if not missed:
            return
        patched = [layer for layer in missed if "forward" in self._layers[layer].__dict__]
        shown = ", ".join(f"{layer} ({' and '.join(sides)})" for layer, sides in missed.items())
        hint = f" ({', '.join(patched)}: forward was set on the instance, take that off)" if patched else ""
        raise MixbitError(
            f"{when} never called the quantizers of {len(missed)} layers, which therefore run in float: {shown}{hint}. "
            "Either the batches do not reach them (give batches that do), or the model's forward goes past these "
            "modules (a patch, or a function that is given their weights). Mend it, or pin these layers at W32A32."
        )

    def negatives(self) -> str | None:
        """What to tell of inputs below zero that unsigned quantizers clip, or None.

        Below half a step nothing is lost but the sign of a zero.
        """
        cut = {}
        for layer, low in self.lowest.items():
            bank = self._banks[layer, "input"]
            if -low > float(bank.steps.detach().min()) / 2:
                cut[layer] = low
        if not cut:
            return None
        shown = ", ".join(f"{layer} (down to {low:.3g})" for layer, low in cut.items())
        return (
            f"calibration saw inputs below zero at layers whose inputs the capture found never negative: {shown}. "
            "Their quantizers are unsigned and clip them to 0. Capture the model with an example that holds such "
            "values, e.g. a batch of the calibration data, and quantize it again."
        )


def far_from_float(model: nn.Module, layers: Mapping[str, QuantizedLayer], run: Callable[[], object]) -> str | None:
    """What to tell of a network at 8 bits that gives other outputs than in float, or None; wider is no reason for it.

    Args:
        model: calibrated, in the mode in which it is compared.
        layers: of `quantized_layers`.
        run: runs the model once, always on the same inputs.
    """
    banks = [bank for module in layers.values() for bank in module.children() if isinstance(bank, Quantizer)]
    if not banks or not all(bank.learned and bank.selected >= 8 and not bank.bypass for bank in banks):
        return None
    with as_float(model):
        wanted = _outputs(run())
    distance = _distance(_outputs(run()), wanted)
    if distance is None or distance <= FAR:
        return None
    where = _first_far(model, layers, run)
    return (
        f"at 8 bits and more the outputs are {distance:.0%} of their own deviation away from those in float (expected: "
        f"a few percent, at most {FAR:.0%}); {where}. Look for outliers in its weights and inputs, calibrate by "
        "another rule, e.g. 'minmax' or 'mse', or on more data."
    )


def _first_far(model: nn.Module, layers: Mapping[str, QuantizedLayer], run: Callable[[], object]) -> str:
    """The first layer, in the order of execution, whose output is far, in words."""
    floats: dict[str, list[Tensor]] = {}
    found: dict[str, float | None] = {}

    def keep(name: str, output: object) -> None:
        floats.setdefault(name, _outputs(output))

    def compare(name: str, output: object) -> None:
        found.setdefault(name, _distance(_outputs(output), floats.get(name, [])))

    def hook(look: Callable[[str, object], None], name: str) -> Callable[..., None]:
        def act(_module: nn.Module, _inputs: object, output: object) -> None:
            look(name, output)

        return act

    for look, around in ((keep, as_float(model)), (compare, ExitStack())):
        with around, ExitStack() as stack:
            for name, module in layers.items():
                stack.callback(module.register_forward_hook(hook(look, name)).remove)
            run()
    first = next(((name, far) for name, far in found.items() if far is not None and far > FAR), None)
    if first is None:
        return "no single layer's own output is that far"
    return f"the first layer whose output is far is {first[0]!r} ({first[1]:.0%})"


def _outputs(tree: Any) -> list[Tensor]:
    return [tensor.detach().float() for tensor in _batch.tensors(tree) if tensor.is_floating_point()]


def _distance(found: list[Tensor], wanted: list[Tensor]) -> float | None:
    """The largest of the tensors' distances; None where there is nothing to compare."""
    parts = []
    for one, other in zip(found, wanted, strict=False):
        spread = float((other - other.mean()).square().mean().sqrt()) if other.numel() else 0.0
        if one.shape == other.shape and spread > 0:
            parts.append(float((one - other).square().mean().sqrt()) / spread)
    return max(parts, default=None)
