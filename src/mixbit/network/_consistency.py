"""Whether the parts of a network that was read from a file fit together: a file that was edited may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mixbit.errors import MixbitError, did_you_mean, shown

if TYPE_CHECKING:
    from mixbit.network._records import Layer, Network, Tensor

__all__ = ["check_network"]

_LARGEST = 2**53
"""MACs and sizes are also counted in float64."""


def check_network(network: Network) -> None:
    """Make sure that names are unique and known, and numbers within their range.

    Raises:
        MixbitError: the first that is not, with its name.
    """
    for problem in _problems(network):
        raise MixbitError(f"The network file does not fit together: {problem}. Write it again with network.to_json().")


def _problems(network: Network) -> Iterator[str]:
    layers = [layer.name for layer in network.layers]
    tensors = [tensor.name for tensor in network.tensors]
    for kind, names in (("layer", layers), ("tensor", tensors)):
        yield from (f"the {kind} {shown(name)} stands there twice" for name in names if names.count(name) > 1)
    for layer in network.layers:
        yield from _of_layer(layer, set(tensors))
    for tensor in network.tensors:
        yield from _of_tensor(tensor, set(layers), len(network.steps))
    for name, count in [("other_macs", network.other_macs), *((one.name, one.macs) for one in network.skipped)]:
        if not 0 <= count < _LARGEST:
            yield f"the MACs of {shown(name)} are {shown(count)}, legal are 0 to below 2^53"


def _of_layer(layer: Layer, tensors: set[str]) -> Iterator[str]:
    where = f"layer {shown(layer.name)}"
    counts = {"macs": layer.macs, "macs_limpq": layer.macs_limpq, "groups": layer.groups, "weights": layer.weights}
    for name, count in counts.items():
        least = 0 if name.startswith("macs") else 1
        if not least <= count < _LARGEST:
            yield f"{where} has {name} {shown(count)}, legal are {least} to below 2^53"
    for shape in (layer.weight_shape, layer.input_shape, layer.output_shape):
        if any(side < 1 for side in shape):
            yield f"{where} has the shape {shown(shape)}, legal are sides from 1 up"
    for tensor in (layer.input_tensor, layer.output_tensor):
        if tensor not in tensors:
            yield f"{where} names the tensor {shown(tensor)}, which is not there.{did_you_mean(tensor, tensors)}"


def _of_tensor(tensor: Tensor, layers: set[str], steps: int) -> Iterator[str]:
    where = f"tensor {shown(tensor.name)}"
    if any(side < 1 for side in tensor.shape) or tensor.numel >= _LARGEST:
        yield f"{where} has the shape {shown(tensor.shape)}, legal are sides from 1 up and below 2^53 numbers"
    if not 0 <= tensor.first_step <= tensor.last_step < max(1, steps):
        yield f"{where} lives from step {tensor.first_step} to {tensor.last_step} of {steps}"
    yield from (f"{where} is read by {shown(name)}, which is no layer" for name in tensor.readers if name not in layers)
