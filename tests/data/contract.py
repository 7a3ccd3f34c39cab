"""What every split must keep; the test file of each kind of data calls `check_split`."""

from __future__ import annotations

import torch

from mixbit.data import Batch, Split


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
