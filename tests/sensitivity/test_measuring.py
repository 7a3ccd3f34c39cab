"""Partial measurements: what a killed search had is what the next one begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mixbit.errors import MixbitError, StaleRun
from mixbit.sensitivity.measuring import RowSums, contents
from mixbit.sensitivity.suffix import Work


def test_sums_go_on_with_the_work_behind_them(tmp_path: Path) -> None:
    pieces = [
        (0, "", [1.0], Work(8.0, 8.0)),
        (0, "a/b", [1.5, 2.5], Work(16.0, 4.0)),
        (1, "a/b", [0.5, 1.0], Work(16.0, 3.0)),
    ]
    for number, (chunk, row, values, work) in enumerate(pieces):  # killed after every row
        sums = RowSums(tmp_path, "search", {"images": 8})
        assert [(chunk, row) in sums for chunk, row, _, _ in pieces] == [at < number for at in range(3)]
        sums.put(chunk, row, values, work)
    found = RowSums(tmp_path, "search", {"images": 8})
    assert found.rows == {"": [1.0], "a/b": [2.0, 3.5]}
    assert found.work == Work(passes=40.0, done=15.0)


def test_sums_are_added_in_the_order_in_which_they_were_measured(tmp_path: Path) -> None:
    """Else the last digit of a killed search would differ."""
    values = [0.1, 0.2, 0.3, 1e16, -1e16]
    whole = RowSums(None, "search", {})
    for chunk, value in enumerate(values):
        whole.put(chunk, "a", [value], Work())
        RowSums(tmp_path, "search", {}).put(chunk, "a", [value], Work())
    assert RowSums(tmp_path, "search", {}).rows == whole.rows == {"a": [0.1 + 0.2 + 0.3 + 1e16 - 1e16]}


def test_sums_of_an_older_version_and_pieces_that_nobody_wrote_are_refused(tmp_path: Path) -> None:
    RowSums(tmp_path, "search", {}).put(0, "a", [1.0], Work())
    path = tmp_path / "search.jsonl"
    path.write_text(path.read_text().replace('"values"', '"others"'))
    with pytest.raises(MixbitError, match="search.jsonl, key '0/a', is not what mixbit wrote"):
        RowSums(tmp_path, "search", {})
    path.rename(tmp_path / "search-partial.json")
    with pytest.raises(StaleRun, match="holds partial measurements of search as an older mixbit kept them"):
        RowSums(tmp_path, "search", {})


def test_contents_are_of_weights_images_and_targets() -> None:
    torch.manual_seed(0)
    model, x, y = nn.BatchNorm1d(3), torch.rand(4, 3), torch.arange(4)
    one = contents(model, [(x, y)])
    assert one == contents(model, [({"x": x}, (y,))]) and sorted(one) == ["training_images", "weights"]
    for others in ([(x + 1, y)], [(x, y + 1)], [(x, y), (x, y)]):
        assert contents(model, others)["weights"] == one["weights"]
        assert contents(model, others)["training_images"] != one["training_images"]
    model.get_buffer("running_mean").add_(1)
    assert contents(model, [(x, y)])["weights"] != one["weights"]
