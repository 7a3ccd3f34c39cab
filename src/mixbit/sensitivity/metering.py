"""What a search costs, measured from outside: images read, passes through the network, CPU and wall time.

No method knows that it is metered. Training images are counted by a stand-in for the task's training split. Passes are
counted by forward hooks on the modules that own the layers' weights, and by hooks on their outputs for the way back.
Methods work on deep copies of the model and turn modules into quantized subclasses; hooks survive both, and since
functions are not copied, the hooks of all copies write into one counter. Each call of a layer adds its MACs times the
batch, so a pass through a part of the network counts as that part.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from mixbit import _batch, _effort
from mixbit.data import Split
from mixbit.data.base import Batch
from mixbit.errors import MixbitError
from mixbit.network import Layer
from mixbit.task import Task

__all__ = ["Effort", "Meter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a search took. None: not measured, as for policies that come from elsewhere.

    A pass of one image through all layers is 1, in each direction; a second derivative (a backward pass through a
    backward pass) counts as two backward passes.
    """

    cpu_seconds: float | None = None
    """CPU seconds of the process, all threads together."""
    wall_seconds: float | None = None
    images: int | None = None
    """Training images that were read, repeats counted."""
    forward_images: float | None = None
    """MACs done in layers, over those of one image."""
    backward_images: float | None = None
    """MACs done in layers on the way back, over those of one image."""

    def to_json(self) -> dict[str, Any]:
        """The effort as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Effort:
        """What `to_json` gave; other keys are left out, missing ones are None.

        >>> Effort.from_json(Effort(images=64).to_json()).images
        64
        """
        known = {f.name for f in fields(cls)}
        found = {key: value for key, value in values.items() if key in known}
        for key, value in found.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise MixbitError(f"effort: {key}={value!r} is no number. Give seconds and images as numbers, or null.")
        return cls(**found)


class Meter:
    """Measures what one search takes.

    Attributes:
        task: the task to hand to the method: the same model, data and network, with a training split that counts.
    """

    def __init__(self, task: Task) -> None:
        self._counter = _Counter()
        self._task = task
        self.task = replace(task, train=_CountedSplit(task.train, self._counter))
        self._macs = sum(layer.macs for layer in task.network.layers)
        self._effort: Effort | None = None

    @property
    def effort(self) -> Effort:
        """What the block of `running` took."""
        assert self._effort is not None
        return self._effort

    @contextmanager
    def running(self) -> Iterator[Task]:
        """Measure the block; afterwards the user's model carries no hook any more."""
        handles = _hook_layers(self._task, self._counter)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            with _effort.listen() as reported:
                yield self.task
        finally:
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            for handle in handles:
                handle.remove()
            self._effort = Effort(
                cpu_seconds=round(cpu, 3),
                wall_seconds=round(wall, 3),
                images=self._counter.images,
                forward_images=self._in_images(self._counter.forward, reported.forward_images),
                backward_images=self._in_images(self._counter.backward, reported.backward_images),
            )

    def _in_images(self, macs: float, reported: float) -> float:
        return round(macs / self._macs + reported, 6)


class _Counter:
    """Images read, and MACs of layers done in each direction."""

    def __init__(self) -> None:
        self.images = 0
        self.forward = 0.0
        self.backward = 0.0


class _CountedSplit:
    """A split that counts the images that it gives; all else is the wrapped split's."""

    def __init__(self, split: Split, counter: _Counter) -> None:
        self._split = split
        self._counter = counter

    @property
    def num_classes(self) -> int | None:
        return self._split.num_classes

    def __len__(self) -> int:
        return len(self._split)

    def num_batches(self, batch_size: int, *, drop_last: bool = False, fraction: float = 1.0) -> int:
        return self._split.num_batches(batch_size, drop_last=drop_last, fraction=fraction)

    def batches(self, batch_size: int, **how: Any) -> Iterator[Batch]:
        # The inner call comes first, so that illegal arguments raise here and now, as they do without a meter.
        return self._counted(self._split.batches(batch_size, **how))

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for x, y in batches:
            self._counter.images += _batch.samples(x)
            yield x, y

    def __getattr__(self, name: str) -> Any:
        """What a split has beyond the protocol, such as `labels`."""
        if name.startswith("__") or name == "_split":  # copy asks before there is anything to ask
            raise AttributeError(name)
        return getattr(self._split, name)


# ---------------------------------------------------------------------------------------------- passes by hooks


def _hook_layers(task: Task, counter: _Counter) -> list[Any]:
    """Forward hooks on every module that does a layer's work."""
    owners: dict[str, list[Layer]] = {}
    for layer in task.network.layers:
        owners.setdefault(_caller(task.model, layer.parameter.rpartition(".")[0]), []).append(layer)
    handles = []
    for name, layers in owners.items():
        module, macs = task.model.get_submodule(name), sum(layer.macs for layer in layers)
        handles.append(module.register_forward_hook(_forward_hook(macs, _elements(module, layers), counter)))
    return handles


def _caller(model: nn.Module, owner: str) -> str:
    """The module whose call does the layer's work: attention never calls its output projection as a module."""
    parent = owner.rpartition(".")[0]
    if owner and isinstance(model.get_submodule(parent), nn.MultiheadAttention):
        return parent
    return owner


def _elements(module: nn.Module, layers: list[Layer]) -> int | None:
    """Elements of one sample's output, where the module's output is that of its (last) layer."""
    usual = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear | nn.MultiheadAttention)
    return math.prod(layers[-1].output_shape) if usual else None


def _forward_hook(macs: int, elements: int | None, counter: _Counter) -> Callable[[nn.Module, Any, Any], None]:
    """A plain function, for those are not copied with a model."""

    def back(done: float) -> Callable[[Tensor], None]:
        def hook(_gradient: Tensor) -> None:
            counter.backward += done

        return hook

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) else output
        # An export only reads the program; it computes nothing, and must not find the hooks in it.
        if not isinstance(first, Tensor) or torch.compiler.is_compiling():
            return
        done = macs * _samples(first, elements)
        counter.forward += done
        if first.requires_grad:
            first.register_hook(back(done))  # type: ignore[no-untyped-call]

    return hook


def _samples(output: Tensor, elements: int | None) -> float:
    """Samples in a batch: by its elements, wherever the batch dimension stands, or else by its first dimension."""
    if elements is None:
        return output.shape[0]
    whole, rest = divmod(output.numel(), elements)
    return whole if not rest else output.numel() / elements
