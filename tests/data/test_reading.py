"""How batches are read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from mixbit.data import LoaderSplit, read_keys
from mixbit.errors import DataError


def loaded(data: Any, *, collate: Any = None, **how: Any) -> tuple[Any, Any]:
    return next(LoaderSplit(DataLoader(data, batch_size=4, collate_fn=collate), **how).batches(3))


@pytest.mark.parametrize(
    ("targets", "num_classes"),
    [
        (torch.rand(6), 1),
        (torch.rand(6, 1), 3),
        (torch.rand(6, 1, 2, 2), None),
        (torch.rand(6, 5).round(), 5),
        (torch.full((6, 2, 2), 255), 3),
        (torch.full((6, 5), -1), 3),
        (torch.arange(6, dtype=torch.int32), None),
        (torch.rand(6, dtype=torch.float64), None),
        (torch.rand(6) < 0.5, 2),
    ],
)
def test_targets_come_as_they_are(targets: torch.Tensor, num_classes: int | None) -> None:
    _, found = loaded(TensorDataset(torch.randn(6, 3), targets), num_classes=num_classes)
    assert found.dtype == targets.dtype and torch.equal(found, targets[:3])


def test_class_numbers_are_checked_where_the_number_of_classes_is_known() -> None:
    data = TensorDataset(torch.randn(6, 3), torch.arange(6, dtype=torch.int16))
    assert loaded(data, num_classes=6)[1].dtype == torch.int64
    with pytest.raises(DataError, match="sample 2 has label 2"):
        loaded(data, num_classes=2)


def test_token_ids_are_inputs_and_bytes_are_not() -> None:
    ids = torch.randint(0, 100, (6, 12))
    assert torch.equal(loaded(TensorDataset(ids, torch.zeros(6)))[0], ids[:3])
    with pytest.raises(DataError, match="must be float"):
        loaded(TensorDataset(ids.to(torch.uint8), torch.zeros(6)))
    assert loaded(TensorDataset(torch.rand(6, 2).double(), torch.zeros(6)))[0].dtype == torch.float32


def test_dicts_and_more_than_pairs_need_a_rule_and_the_error_says_how() -> None:
    with pytest.raises(DataError, match=r"gives a dict: {image: float32 \(4, 2\), label: int64 \(4,\)}.*read_keys"):
        loaded([{"image": torch.zeros(2), "label": 1}] * 6)
    with pytest.raises(DataError, match="gives a list.*read=lambda batch"):
        loaded(TensorDataset(torch.zeros(6, 2), torch.zeros(6), torch.zeros(6)))
    with pytest.raises(DataError, match=r"read= gave float32 \(4, 2\)"):
        loaded(TensorDataset(torch.zeros(6, 2), torch.zeros(6)), read=lambda batch: batch[0])
    with pytest.raises(DataError, match="no 'labels'. Its keys: image, label"):
        loaded([{"image": torch.zeros(2), "label": 1}] * 6, read=read_keys("image", "labels"))
    with pytest.raises(DataError, match="read_keys reads dicts"):
        loaded(TensorDataset(torch.zeros(6, 2)), read=read_keys("image", "label"))


def test_rules_make_arguments_and_keyword_arguments() -> None:
    data = TensorDataset(torch.arange(6.0)[:, None], torch.ones(6, 2), torch.arange(6))
    inputs, targets = loaded(data, read=lambda batch: ((batch[0], batch[1]), batch[2]))
    assert isinstance(inputs, tuple) and [len(one) for one in inputs] == [3, 3] and targets.tolist() == [0, 1, 2]
    rows = [{"ids": torch.tensor([at]), "mask": torch.ones(1), "labels": at, "length": 1} for at in range(6)]
    inputs, targets = loaded(rows, read=read_keys(["ids", "mask"], ["labels", "length"]))
    assert set(inputs) == {"ids", "mask"} and targets["labels"].tolist() == [0, 1, 2]
    assert torch.equal(
        loaded(TensorDataset(torch.arange(6.0)), read=lambda batch: (batch[0], batch[0]))[1], torch.arange(3.0)
    )


def test_targets_of_one_entry_a_sample_and_of_several_tensors() -> None:
    """Boxes of each image in a list; the tensors of a transcription in a tuple, though PyTorch collates to lists."""

    def boxes(samples: list[Any]) -> Any:
        return torch.stack([x for x, _ in samples]), [y for _, y in samples]

    data = [(torch.full((1,), float(at)), torch.zeros(at, 5)) for at in range(6)]
    _, targets = loaded(data, collate=boxes)
    assert isinstance(targets, list) and [len(one) for one in targets] == [0, 1, 2]
    split = LoaderSplit(DataLoader(data, batch_size=4, collate_fn=boxes))  # type: ignore[arg-type]
    assert [[len(one) for one in y] for _, y in split.batches(5)] == [[0, 1, 2, 3, 4], [5]]
    _, (text, length) = loaded([(torch.zeros(3), (torch.tensor([1, 2]), 2))] * 6)
    assert text.shape == (3, 2) and length.tolist() == [2, 2, 2]


def test_what_cannot_be_cut_passes_whole_and_is_an_error_where_it_must_be_cut() -> None:
    """Labels of all samples in a row, as some losses of transcriptions want them."""

    def rows(samples: list[Any]) -> Any:
        return torch.stack([x for x, _ in samples]), (
            torch.cat([y for _, y in samples]),
            torch.full((len(samples),), 2),
        )

    loader = DataLoader([(torch.zeros(3), torch.tensor([1, 2]))] * 8, batch_size=4, collate_fn=rows)  # type: ignore[arg-type]
    assert [len(y[0]) for _, y in LoaderSplit(loader).batches(4)] == [8, 8]
    with pytest.raises(DataError, match=r"batch of 4 samples cannot be cut: it holds int64 \(8,\)"):
        next(LoaderSplit(loader).batches(3))
