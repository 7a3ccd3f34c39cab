"""Images in memory: pixels, augmentation, normalisation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mixbit.data import TensorSplit
from mixbit.data.memory import crop_and_flip
from mixbit.errors import DataError
from tests.data.contract import all_moves, check_split, moves_of
from tests.needs import needs


def split_of(count: int = 23, channels: int = 3, pad: int = 2, flip: bool = True) -> TensorSplit:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 6, 5), dtype=torch.uint8, generator=random)
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.1][:channels]
    return TensorSplit(images, torch.arange(count) % 4, 4, mean, std, pad=pad, flip=flip)


@pytest.mark.parametrize("channels", [1, 3])
def test_contract(channels: int) -> None:
    check_split(split_of(channels=channels))


def test_normalisation_is_pixel_over_255_minus_mean_over_std() -> None:
    split = split_of()
    images, _ = next(split.batches(4))
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(images, (split.images[:4] / 255 - mean) / std)


def test_crop_and_flip_equals_the_slow_way() -> None:
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=random)
    top, left = torch.randint(0, 5, (2, 50), generator=random)
    mirrored = torch.rand(50, generator=random) < 0.5
    found = crop_and_flip(images, 2, top, left, mirrored)
    for i in range(50):
        cut = F.pad(images[i], (2, 2, 2, 2))[:, top[i] : top[i] + 6, left[i] : left[i] + 5]
        assert torch.equal(found[i], cut.flip(-1) if mirrored[i] else cut)


def test_augmentation_uses_all_shifts_and_flips_half() -> None:
    """One lit pixel in the middle of the left half shows where each image went."""
    images = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 2] = 255
    split = TensorSplit(images, torch.zeros(4000, dtype=torch.int64), 1, [0.0], [1.0], pad=2, flip=True)
    shown = torch.cat([x for x, _ in split.batches(100, augment=True)])[:, 0]
    rows, columns = shown.amax(2).argmax(1), shown.amax(1).argmax(1)
    assert rows.unique().tolist() == [2, 3, 4, 5, 6]
    assert columns.unique().tolist() == list(range(9))
    # Unflipped images light columns 0 .. 4, flipped ones 4 .. 8; either is alone in 4 of its 5 columns.
    share = ((columns > 4).float().mean() / 0.8).item()
    assert 0.46 < share < 0.54
    counts = torch.bincount(rows, minlength=7)[2:]
    assert counts.min() > 700


@pytest.mark.parametrize(("pad", "flip"), [(2, True), (2, False), (1, True), (0, True), (0, False)])
def test_each_of_both_shifts_and_the_flip_is_drawn_by_itself(pad: int, flip: bool) -> None:
    """All moves that there are, none that there is not, and none much more often than another."""
    found = moves_of(split_of(count=300, pad=pad, flip=flip), passes=8, reach=3)
    assert set(found) == all_moves(pad, flip=flip)
    mean = found.total() / len(found)
    assert all(abs(count - mean) <= 5 * mean**0.5 for count in found.values())


def test_augmentation_follows_the_batch_of_the_order_and_not_the_sample() -> None:
    """The draws of place k of batch b: the same pixels at another place are moved in another way."""
    images = torch.randint(1, 256, (1, 3, 6, 5), dtype=torch.uint8).expand(40, -1, -1, -1).contiguous()
    split = TensorSplit(images, torch.zeros(40), 1, [0.0] * 3, [1.0] * 3, pad=2, flip=True)
    x = torch.cat([x for x, _ in split.batches(4, augment=True)])
    assert len(x.flatten(1).unique(dim=0)) > 20
    assert torch.equal(x, torch.cat([x for x, _ in split.batches(4, augment=True)]))


def test_epochs_seeds_and_batches_differ() -> None:
    split = split_of(count=8)
    passes = {
        str([x.sum(0).tolist() for x, _ in split.batches(4, augment=True, epoch=epoch, seed=seed)])
        for epoch in (0, 1)
        for seed in (0, 1)
    }
    assert len(passes) == 4


def test_without_augment_pixels_are_the_stored_ones() -> None:
    plain, augmented = split_of(), split_of(pad=0, flip=False)
    for (x, _), (y, _) in zip(plain.batches(5), augmented.batches(5, augment=True), strict=True):
        assert torch.equal(x, y)


def test_a_moved_split_gives_the_same_batches() -> None:
    split = split_of()
    moved = split.to("cpu")
    assert moved is not split
    pairs = zip(split.batches(5, augment=True), moved.batches(5, augment=True), strict=True)
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@needs("cuda")
def test_a_split_on_the_gpu_gives_the_same_batches() -> None:
    split = split_of()
    on_gpu = split.to("cuda")
    options = {"seed": 3, "shuffle": True, "augment": True}
    for (x, y), (u, v) in zip(split.batches(5, **options), on_gpu.batches(5, **options), strict=True):
        assert u.is_cuda
        torch.testing.assert_close(x, u.cpu(), rtol=0, atol=1e-6)
        assert torch.equal(y, v.cpu())


@pytest.mark.parametrize(
    ("images", "labels", "mean", "message"),
    [
        (torch.zeros(2, 1, 3, 3), [0, 1], [0.0], "must be uint8"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), [0, 1], [0.0], r"\(2, 3, 3\)"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), [0], [0.0], "2 images but 1 labels"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), [0, 1], [0.0, 0.0], "1 channels"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), [0, 2], [0.0], "sample 1 has label 2"),
    ],
)
def test_tensors_that_do_not_fit(images: torch.Tensor, labels: list[int], mean: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        TensorSplit(images, torch.tensor(labels), 2, mean, [1.0])
