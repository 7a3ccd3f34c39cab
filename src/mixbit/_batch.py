"""Inputs and targets of any shape: moved, counted, cut and joined, and the one place in which a model is called.

Inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments. Targets are whatever the loss
takes: tensors, numbers and text in tuples and dicts. Every tensor has the samples first. A list holds one entry a
sample, such as the boxes of each image; it is never a structure, which is what tuples and dicts are for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

from mixbit.errors import DataError

Inputs: TypeAlias = Any
"""A tensor, a tuple of positional arguments, or a dict of keyword arguments."""
Targets: TypeAlias = Any
"""What the loss takes."""


def call(model: Callable[..., Any], inputs: Inputs) -> Any:
    """`model` of these inputs: one tensor, positional arguments, or keyword arguments.

    >>> call(lambda x, y: x + y, (torch.tensor(1), torch.tensor(2))), call(lambda a: 2 * a, {"a": torch.tensor(3)})
    (tensor(3), tensor(6))
    """
    given = as_arguments(model, inputs)
    if isinstance(given, tuple):
        return model(*given)
    if isinstance(given, Mapping):
        return model(**given)
    return model(given)


def as_arguments(model: Callable[..., Any], inputs: Inputs) -> Inputs:
    """The inputs, but for a dict whose keys the model has no parameters for, and which it can take as one argument.

    >>> as_arguments(lambda batch: batch, {"image": 1}), as_arguments(lambda image: image, {"image": 1})
    (({'image': 1},), {'image': 1})
    """
    if not isinstance(inputs, Mapping):
        return inputs
    try:
        signature = inspect.signature(getattr(model, "forward", model))
    except (TypeError, ValueError):  # written in C: nothing is known of it
        return inputs
    named, single = (_binds(signature, args, kwargs) for args, kwargs in (((), inputs), ((inputs,), {})))
    return (inputs,) if single and not named else inputs


def _binds(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of inputs or targets, in order."""
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def samples(inputs: Inputs) -> int:
    """How many samples a batch holds: the first dimension of its first tensor.

    Raises:
        DataError: there is no tensor with a batch dimension.

    >>> samples((torch.zeros(3, 2), torch.zeros(3))), samples({"ids": torch.zeros(4, 7)})
    (3, 4)
    """
    for tensor in tensors(inputs):
        if tensor.dim():
            return tensor.shape[0]
    raise DataError(f"The inputs {describe(inputs)} hold no tensor with the samples as its first dimension.")


def move(tree: Any, device: torch.device | str, *, channels_last: bool = False) -> Any:
    """A batch on `device`, of the same types; `channels_last` lays 4-d tensors out so."""

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if channels_last and leaf.dim() == 4:
            return leaf.to(device, memory_format=torch.channels_last, non_blocking=True)
        return leaf.to(device, non_blocking=True)

    return _pytree.tree_map(moved, tree)


def part(tree: Any, chosen: slice | Tensor, size: int) -> Any:
    """Some samples of a batch of `size`: a slice, or numbers or flags `(n,)`.

    Raises:
        DataError: a tensor or list that does not hold one entry a sample.

    >>> part((torch.arange(3), {"boxes": ["a", "b", "c"]}), slice(2), 3)
    (tensor([0, 1]), {'boxes': ['a', 'b']})
    """
    if isinstance(tree, Tensor):
        if not tree.dim():
            return tree
        _check_size(tree, len(tree), size)
        return tree[chosen.to(tree.device) if isinstance(chosen, Tensor) else chosen]
    if isinstance(tree, list):
        _check_size(tree, len(tree), size)
        places = torch.arange(size)[chosen].tolist()
        return [tree[place] for place in places]
    return _through(tree, lambda one: part(one, chosen, size))


def join(trees: Sequence[Any]) -> Any:
    """Batches of one structure as one batch.

    >>> join([(torch.zeros(1), [7]), (torch.ones(2), [8, 9])])
    (tensor([0., 1., 1.]), [7, 8, 9])
    """
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(trees)) if first.dim() else first
    if isinstance(first, list):
        return [entry for tree in trees for entry in tree]
    if isinstance(first, Mapping):
        return {key: join([tree[key] for tree in trees]) for key in first}
    if isinstance(first, tuple):
        joined = (join(entries) for entries in zip(*trees, strict=True))
        return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
    return first


def cut(inputs: Inputs, targets: Targets, count: int, chosen: slice) -> tuple[Inputs, Targets]:
    """Some of the `count` samples of a batch; all of them are the batch itself, of which nothing need be cut."""
    if chosen.indices(count) == (0, count, 1):
        return inputs, targets
    return part(inputs, chosen, count), part(targets, chosen, count)


def cut_all(inputs: Inputs, targets: Targets, size: int) -> Iterator[tuple[Inputs, Targets]]:
    """Batches cut anew into batches of `size`; the last one may be smaller."""
    count = samples(inputs)
    for start in range(0, count, size):
        yield cut(inputs, targets, count, slice(start, start + size))


def first_samples(batches: Iterator[tuple[Inputs, Targets]], count: int) -> tuple[Inputs, Targets]:
    """The first `count` samples of these batches as one; all of them where there are fewer.

    Raises:
        DataError: there are none at all.
    """
    found: list[tuple[Inputs, Targets]] = []
    seen = 0
    for x, y in batches:
        found.append((x, y))
        seen += samples(x)
        if seen >= count:
            break
    if not seen:
        raise DataError("The split gave no samples. Give a data set with at least one.")
    xs, ys = zip(*found, strict=True)
    return cut(join(xs), join(ys), seen, slice(count))


def describe(tree: Any) -> str:
    """What came, for messages, e.g. `(float32 (2, 3), [4 entries])`.

    >>> describe({"x": torch.zeros(2, 3), "y": [1, 2], "z": None})
    '{x: float32 (2, 3), y: [2 entries], z: NoneType}'
    """
    if isinstance(tree, Tensor):
        return f"{str(tree.dtype).removeprefix('torch.')} {tuple(tree.shape)}"
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, tuple):
        return f"({', '.join(map(describe, tree))})"
    return f"[{len(tree)} entries]" if isinstance(tree, list) else type(tree).__name__


def _through(tree: Any, change: Callable[[Any], Any]) -> Any:
    """`change` of every entry of a tuple or dict; anything else stays."""
    if isinstance(tree, Mapping):
        return {key: change(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        changed = (change(one) for one in tree)
        return type(tree)(*changed) if hasattr(tree, "_fields") else tuple(changed)
    return tree


def _check_size(tree: Any, found: int, size: int) -> None:
    if found != size:
        raise DataError(
            f"A batch of {size} samples cannot be cut: it holds {describe(tree)}. Legal: tensors with the samples "
            "first, and lists of one entry a sample; several tensors go into a tuple or a dict."
        )
