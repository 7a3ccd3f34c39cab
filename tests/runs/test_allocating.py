"""A policy from a run folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mixbit import runs
from mixbit.cost import LayerBits
from mixbit.errors import InfeasibleBudget, MixbitError
from mixbit.policy import Policy
from mixbit.runs import Subject


def test_policy_meets_the_budget_and_is_written(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    subject, folder = searched
    done = runs.allocate(folder, ["bitops=3x3"], tmp_path / "policy.json")
    assert done.costs.bitops <= done.limits["bitops"] and done.allocation.proven
    assert Policy.load(tmp_path / "policy.json") == done.policy
    assert done.subject == subject and done.pinned == ("conv1", "fc")


def test_pins_and_free_ends(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    pins = {"re:layer3.*": LayerBits(4, 4), "conv1": LayerBits(8, 8), "fc": LayerBits(8, 8)}
    done = runs.allocate(searched[1], ["bitops=3x3"], tmp_path / "p.json", pins=pins, first_last=None)
    assert done.policy.layers["layer3.conv1"] == LayerBits(4, 4)


def test_scores_file_alone_has_no_costs(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    shutil.copy(searched[1] / "scores.json", tmp_path / "scores.json")
    with pytest.raises(MixbitError, match=r"network\.json"):
        runs.allocate(tmp_path / "scores.json", ["bitops=3x3"], tmp_path / "policy.json")
    shutil.copy(searched[1] / "network.json", tmp_path / "network.json")
    assert runs.allocate(tmp_path / "scores.json", ["bitops=3x3"], tmp_path / "policy.json").subject is None


def test_infeasible_budget_writes_nothing(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBudget):
        runs.allocate(searched[1], ["bitops=1M"], tmp_path / "policy.json")
    assert not (tmp_path / "policy.json").exists()
