"""Data sets, labels and the protocol of a split."""

from __future__ import annotations

import pytest
import torch

from mixbit.data import DataSet, InputSpace, Split, TensorSplit
from mixbit.data.base import check_labels
from mixbit.errors import DataError


def test_example_inputs_have_the_shape_of_a_sample() -> None:
    split = TensorSplit(torch.zeros(2, 3, 4, 5, dtype=torch.uint8), torch.tensor([0, 1]), 2, [0.0] * 3, [1.0] * 3)
    found = DataSet(
        name="toy", train=split, test=split, num_classes=2, input_shape=(3, 4, 5), mean=(0.0,) * 3, std=(1.0,) * 3
    )
    assert found.example_inputs(7).shape == (7, 3, 4, 5)
    assert isinstance(found.train, Split)


def test_the_space_of_images_is_pixels_up_to_one() -> None:
    split = TensorSplit(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), 1, [0.2], [0.7])
    found = DataSet(name="toy", train=split, test=split, num_classes=1, input_shape=(1, 2, 2), mean=(0.2,), std=(0.7,))
    assert found.space == InputSpace(mean=(0.2,), std=(0.7,), bounds=(0.0, 1.0), pixel_scale=255.0)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_names_its_sample(label: int) -> None:
    with pytest.raises(DataError, match=rf"toy: sample 2 has label {label}; labels must be 0 to 2"):
        check_labels(torch.tensor([0, 2, label]), 3, "toy")


def test_no_labels_at_all() -> None:
    with pytest.raises(DataError, match="toy: no samples"):
        check_labels(torch.tensor([], dtype=torch.int64), 3, "toy")


def test_bytes_become_int64() -> None:
    assert check_labels(torch.tensor([255], dtype=torch.uint8), 256, "toy").tolist() == [255]
