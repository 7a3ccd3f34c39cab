"""Capture a model and say what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixbit import _batch, _io, models
from mixbit._modes import in_evaluation
from mixbit.cost import Costs, LayerBits, costs, float_costs, uniform_bits
from mixbit.errors import MixbitError, shown
from mixbit.network import Network, capture
from mixbit.policy import resolve_pins
from mixbit.runs.subject import Subject, with_layers
from mixbit.task import Task

__all__ = ["Inspected", "OpenedModel", "inspect", "open_model"]


LARGEST_INPUT = 2**28
"""Numbers in one input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspected:
    """A captured network, its float32 costs, and those of uniform networks."""

    network: Network
    uniform: dict[str, Costs]
    float32: Costs
    input_shape: tuple[int, ...]
    """Shape of one sample; empty where the model takes several tensors."""
    own_data: bool = False
    """Whether it is a task that brings its own data."""
    unexportable: str | None = None
    """Why `mixbit export` would refuse it whatever its layers are; None if it has one tensor in and one tensor out."""


def inspect(subject: Subject, *, input_shape: tuple[int, ...] | None = None, out: Path | None = None) -> Inspected:
    """Capture the subject's model at the shape given, or else that of its data, or else that of the zoo."""
    opened = open_model(subject, input_shape)
    network = opened.network
    if out is not None:
        _io.write_text(out, network.to_json())
    pins = resolve_pins(network)
    uniform = {f"W{b}A{b}": costs(network, uniform_bits(network, LayerBits(b, b), pins)) for b in (8, 4, 3, 2)}
    inputs = _batch.tensors(opened.example)
    shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()
    return Inspected(
        network=network,
        uniform=uniform,
        float32=float_costs(network),
        input_shape=shape,
        own_data=opened.own_data,
        unexportable=_unexportable(opened),
    )


def _unexportable(opened: OpenedModel) -> str | None:
    device = next((p.device for p in opened.model.parameters()), torch.device("cpu"))
    with torch.no_grad(), in_evaluation(opened.model):
        outputs = _batch.call(opened.model, _batch.move(opened.example, device))
    for what, tree in (("takes", opened.example), ("gives", outputs)):
        count = len({id(tensor) for tensor in _batch.tensors(tree)})
        if count != 1:
            return f"the model {what} {count} tensors, and export takes networks of one tensor in, one tensor out"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedModel:
    """A model with what capture learned of it."""

    model: nn.Module
    network: Network
    example: Any
    """Inputs of two samples, see `mixbit.data.Batch`; real ones where there are data of that shape."""
    own_data: bool = False
    """Whether it is a task that brings its own data."""


def open_model(subject: Subject, input_shape: tuple[int, ...] | None = None) -> OpenedModel:
    """Build the subject's model, and capture it at the shape given, or that of its data, or that of the zoo."""
    found = subject.load_data() if subject.data is not None else None
    model = subject.build(found) if found is not None else subject.named()
    if isinstance(model, Task):
        with_layers(model.network, subject.model)
        return _of_task(model, input_shape)
    shape = tuple(input_shape or (found.input_shape if found else _zoo_shape(subject.model)))
    if math.prod(shape) > LARGEST_INPUT:
        raise MixbitError(
            f"an input of {'x'.join(map(str, shape))} has {shown(math.prod(shape))} numbers. Legal: up to "
            f"{LARGEST_INPUT}, which are 1 GiB in float32."
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    # Real inputs where there are any: whether the input can be negative is read off them.
    real = found is not None and shape == tuple(found.input_shape)
    example = next(found.test.batches(2))[0] if found is not None and real else torch.randn(2, *shape)
    network = with_layers(capture(model, example.to(device)), subject.model)
    return OpenedModel(model=model, network=network, example=example)


def _of_task(task: Task, input_shape: tuple[int, ...] | None) -> OpenedModel:
    if input_shape is not None:
        raise MixbitError(f"--input {'x'.join(map(str, input_shape))}: a task brings its own inputs. Leave it out.")
    return OpenedModel(model=task.model, network=task.network, example=task.example(), own_data=True)


def _zoo_shape(model: str) -> tuple[int, ...]:
    if model not in models.names():
        raise MixbitError(f"The input shape of {model!r} is not known. Give --input 3x224x224 or --data.")
    return models.info(model).input_shape
