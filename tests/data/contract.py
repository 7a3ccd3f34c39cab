"""What every split must keep; the test file of each kind of data calls `check_split`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mixbit.data import Batch, DataSet, Split, TensorSplit
from mixbit.testing.options import OptionRow


def equal(first: list[Batch], second: list[Batch]) -> bool:
    """Whether two passes hold the same numbers."""
    return len(first) == len(second) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(first, second, strict=True)
    )


def check_split(split: Split, size: int = 4) -> None:
    """Shapes, types, resuming, ranks and counts; needs between 2 and 10 full batches of `size`."""
    assert isinstance(split, Split)
    check_types(split, size)
    check_resume(split, size)
    check_ranks(split, size)
    check_fraction(split, size)


def check_types(split: Split, size: int) -> None:
    """Batches are (n, C, H, W) float32 contiguous and (n,) int64, and as many as promised."""
    for drop_last in (False, True):
        batches = list(split.batches(size, drop_last=drop_last))
        assert len(batches) == split.num_batches(size, drop_last=drop_last) >= 2
        assert sum(len(labels) for _, labels in batches) == (len(split) // size * size if drop_last else len(split))
    for images, labels in batches:
        assert images.dtype == torch.float32
        assert images.dim() == 4
        assert images.is_contiguous()
        assert labels.dtype == torch.int64
        assert len(images) == len(labels) == size
        assert bool(((labels >= 0) & (labels < split.num_classes)).all())


def check_resume(split: Split, size: int) -> None:
    """`start=k` gives the end of the unbroken pass; the caller's random numbers change nothing and stay as they are."""
    torch.manual_seed(0)
    whole = list(split.batches(size, epoch=3, seed=5, shuffle=True, augment=True))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    for start in (0, 1, len(whole) - 1, len(whole), len(whole) + 2):
        assert equal(whole[start:], list(split.batches(size, epoch=3, seed=5, shuffle=True, augment=True, start=start)))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def check_ranks(split: Split, size: int) -> None:
    """The parts of the ranks, put together, are the batches of one process."""
    options = {"epoch": 1, "seed": 2, "shuffle": True, "augment": True}
    whole = list(split.batches(size, **options))
    for world in (2, 3):
        parts = [list(split.batches(size, rank=rank, world=world, **options)) for rank in range(world)]
        joined = [
            (torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces]))
            for pieces in zip(*parts, strict=True)
        ]
        assert equal(whole, joined)


def check_fraction(split: Split, size: int) -> None:
    """Half of the samples are about half of the batches."""
    half = sum(len(labels) for _, labels in split.batches(size, fraction=0.5))
    assert half == round(len(split) * 0.5)
    assert len(list(split.batches(size, fraction=0.5))) == split.num_batches(size, fraction=0.5)


# ------------------------------------------------------------------------------------------------ options of a kind


def keywords_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The options of a kind of data: what its loading function takes by name alone."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(one.name for one in parameters if one.kind is one.KEYWORD_ONLY)


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Option -> what it is where nobody names it."""
    return {name: inspect.signature(function).parameters[name].default for name in keywords_of(function)}


def normalises(option: str, first: Any, second: Any, load: Callable[..., DataSet]) -> OptionRow:
    """`mean` or `std`: both splits hold `(byte / 255 - mean) / std` of the same bytes, and the data set says so."""

    def seen(value: Any) -> tuple[Any, list[Tensor]]:
        found = load(**{option: value})
        mean, std = (torch.tensor(one).view(-1, 1, 1) for one in (found.mean, found.std))
        passes = [next(split.batches(4))[0] for split in (found.train, found.test)]
        return tuple(getattr(found, option)), [(x * std + mean) * 255 for x in passes]

    def holds(one: Any, other: Any) -> bool:
        both = [(a, b) for a, b in zip(one[1], other[1], strict=True)]
        whole = all(float((a - a.round()).abs().max()) < 1e-2 and 100 < float(a.max()) < 255.1 for a, _ in both)
        same = all(torch.allclose(a, b, rtol=0, atol=1e-2) for a, b in both)
        told = all(torch.allclose(torch.tensor(a), torch.tensor(b)) for a, b in ((one[0], first), (other[0], second)))
        return whole and same and told

    return OptionRow(option, (first, second), seen=seen, holds=holds)


def moves_of(split: TensorSplit, *, passes: int = 1, reach: int = 5) -> Counter[tuple[int, int, bool]]:
    """How often augmentation moved an image down and right by so many pixels, and then mirrored it, zeros coming in.

    Found by trying all moves up to `reach` on every image; images that several moves explain are not counted.
    """
    height, width = split.images.shape[2:]
    padded = F.pad(split.images, (reach,) * 4)
    found: Counter[tuple[int, int, bool]] = Counter()
    for epoch in range(passes):
        x = torch.cat([x for x, _ in split.batches(64, augment=True, epoch=epoch)])
        shown = (x * split.std + split.mean).round()
        fits = {}
        for down, right in product(range(-reach, reach + 1), repeat=2):
            top, left = reach - down, reach - right
            cut = padded[:, :, top : top + height, left : left + width]
            for mirrored in (False, True):
                fits[down, right, mirrored] = (shown == (cut.flip(3) if mirrored else cut)).flatten(1).all(1)
        explained = torch.stack(list(fits.values())).sum(0)
        assert bool((explained > 0).all()), "an image is no shifted or mirrored copy of the stored one"
        for move, fit in fits.items():
            found[move] += int((fit & (explained == 1)).sum())
    return +found


def all_moves(pad: int, *, flip: bool) -> set[tuple[int, int, bool]]:
    """The moves of a crop out of an image padded by `pad` pixels."""
    steps = range(-pad, pad + 1)
    return set(product(steps, steps, (False, True) if flip else (False,)))
