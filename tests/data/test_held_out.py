"""Parts of a split."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import TensorDataset

from mixbit.data import Part, TensorSplit, as_split, hold_out
from mixbit.errors import DataError


def split(count: int = 50) -> TensorSplit:
    """Image i is full of i, and so is its label."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    return TensorSplit(images, torch.arange(count), count, [0.0], [1 / 255], pad=1)


def test_parts_share_nothing_and_leave_nothing_out() -> None:
    kept, out = hold_out(split(), 0.2, seed=3)
    assert (len(kept), len(out)) == (40, 10)
    assert sorted([*kept.labels.tolist(), *out.labels.tolist()]) == list(range(50))
    again = hold_out(split(), 0.2, seed=3)[1]
    assert torch.equal(out.labels, again.labels)
    assert not torch.equal(out.labels, hold_out(split(), 0.2, seed=4)[1].labels)


@pytest.mark.parametrize(("share", "held"), [(0.31, 16), (0.07, 4), (0.001, 1), (0.98, 49)])
def test_the_share_is_rounded_and_both_parts_keep_the_order(share: float, held: int) -> None:
    kept, out = hold_out(split(), share)
    assert len(out) == held
    for part in (kept, out):
        assert part.labels.tolist() == sorted(part.labels.tolist())  # type: ignore[attr-defined]


def test_images_stay_with_their_labels() -> None:
    kept, _ = hold_out(split(), 0.2)
    seen = 0
    for x, y in kept.batches(7, shuffle=True, seed=1, epoch=2):
        assert torch.equal(x[:, 0, 0, 0].round().long(), y)
        seen += len(y)
    assert seen == len(kept)


def test_augmentation_and_resuming_are_the_whole_splits() -> None:
    kept, _ = hold_out(split(), 0.2)
    whole = list(kept.batches(8, shuffle=True, augment=True, epoch=1))
    later = list(kept.batches(8, shuffle=True, augment=True, epoch=1, start=2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[2:], later, strict=True))
    assert any((x == 0).any() for x, _ in whole)  # zeros that came in from the padding


def test_a_part_of_a_part() -> None:
    part = Part(Part(split(), torch.tensor([5, 6, 7, 8])), torch.tensor([3, 0]))
    x, y = next(part.batches(2))
    assert y.tolist() == [8, 5] and x[:, 0, 0, 0].tolist() == pytest.approx([8, 5])


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 0.999])
def test_illegal_share(share: float) -> None:
    with pytest.raises(DataError, match="Legal: above 0 and below 1"):
        hold_out(split(), share)


def test_foreign_splits_are_refused() -> None:
    class Foreign:
        def __len__(self) -> int:
            return 3

    with pytest.raises(DataError, match="derive it from mixbit.data.IndexedSplit"):
        hold_out(Foreign(), 0.5)  # type: ignore[arg-type]


def test_samples_of_a_dataset_and_of_data_with_a_rule() -> None:
    data = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))
    for whole in (as_split(data), as_split(as_split(data), lambda batch: (batch[0], batch[1]))):
        kept, out = hold_out(whole, 0.3, seed=1)
        assert (len(kept), len(out)) == (7, 3)
        found = [next(part.batches(10)) for part in (kept, out)]
        assert sorted(number for _, y in found for number in y.tolist()) == list(range(10))
        assert all(x.flatten().tolist() == y.tolist() for x, y in found)
    with pytest.raises(DataError, match="give a Dataset"):
        hold_out(as_split([(torch.zeros(4, 1), torch.zeros(4))]), 0.5)
