"""Inputs and targets of any shape: counted, moved, cut and joined, each entry by its own rule."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch

from mixbit import _batch
from mixbit.errors import DataError
from mixbit.testing.options import alike

Pair = namedtuple("Pair", ["first", "second"])


def tree(first: int, count: int) -> Any:
    """Samples `first`, `first + 1`, ... in a tensor, a list, a tuple and a dict, with entries that are of no sample."""
    numbers = list(range(first, first + count))
    images = torch.tensor(numbers, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    return {
        "x": (images, [f"box {n}" for n in numbers]),
        "y": Pair(torch.tensor(numbers), {"name": "data", "one": torch.tensor(5)}),
    }


def test_parts_and_joints_are_those_of_the_samples() -> None:
    whole = tree(0, 7)
    assert alike(_batch.join([tree(0, 2), tree(2, 4), tree(6, 1)]), whole)
    assert alike(_batch.part(whole, slice(2, 6), 7), tree(2, 4))
    assert alike(_batch.part(whole, torch.tensor([2, 3]), 7), tree(2, 2))
    assert alike(_batch.part(whole, torch.arange(7) >= 4, 7), tree(4, 3))
    assert isinstance(_batch.part(whole, slice(2), 7)["y"], Pair) and isinstance(_batch.join([whole, whole])["y"], Pair)


def test_batches_are_cut_into_smaller_ones() -> None:
    x, y = torch.arange(7), [str(n) for n in range(7)]
    found = list(_batch.cut_all(x, y, 3))
    assert [a.tolist() for a, _ in found] == [[0, 1, 2], [3, 4, 5], [6]] and [b for _, b in found][2] == ["6"]
    assert _batch.cut(x, y, 7, slice(0, 7))[0] is x and _batch.cut(x, y, 7, slice(1, 7))[0].tolist() == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert _batch.cut(x, y, 7, slice(0, 7, 2))[1] == ["0", "2", "4", "6"]


@pytest.mark.parametrize(("count", "read"), [(1, 1), (3, 1), (4, 2), (6, 2), (99, 3)])
def test_the_first_samples_come_of_as_few_batches_as_hold_them(count: int, read: int) -> None:
    made: list[int] = []

    def batches() -> Any:
        for start in (0, 3, 6):
            made.append(start)
            yield torch.arange(start, start + 3), torch.arange(start, start + 3) * 10

    x, y = _batch.first_samples(batches(), count)
    assert x.tolist() == list(range(min(count, 9))) and (y == 10 * x).all() and len(made) == read
    with pytest.raises(DataError, match="no samples"):
        _batch.first_samples(iter(()), 3)


def test_samples_are_the_first_dimension_of_the_first_tensor_that_has_one() -> None:
    assert _batch.samples({"temperature": torch.tensor(2.0), "x": torch.zeros(5, 3), "z": torch.zeros(7)}) == 5
    with pytest.raises(DataError, match="no tensor with the samples"):
        _batch.samples((torch.tensor(1.0), "x"))


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_alone_are_laid_out(channels_last: bool) -> None:
    images, video = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 4, 4)
    moved = _batch.move({"a": images, "b": (video, "text", 3)}, "cpu", channels_last=channels_last)
    assert moved["a"].is_contiguous(memory_format=torch.channels_last) is channels_last
    assert moved["b"][0].is_contiguous() and moved["b"][1:] == ("text", 3)


def test_a_model_is_called_by_place_by_name_or_with_the_whole_dict() -> None:
    def named(image: int, scale: int = 1) -> int:
        return image - scale

    assert _batch.call(named, (5, 3)) == 2 and _batch.call(named, {"scale": 5, "image": 3}) == -2
    assert _batch.call(lambda batch: sorted(batch), {"other": 1, "keys": 2}) == ["keys", "other"]
    assert _batch.call(lambda **batch: sorted(batch), {"other": 1, "keys": 2}) == ["keys", "other"]
    assert _batch.call(named, 7) == 6
