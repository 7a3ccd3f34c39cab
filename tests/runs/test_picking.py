"""A policy from a front in a file: what is picked, what is refused, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mixbit import runs
from mixbit.cost import LayerBits
from mixbit.errors import BudgetError, InfeasibleBudget, MixbitError, PolicyError
from mixbit.export.c import COptions, footprint
from mixbit.integer import lower_at
from mixbit.metric import ACCURACY
from mixbit.policy import Front, FrontPoint, Measured, Policy, Terms, WeightsFile
from mixbit.runs import _folder, picking
from tests.cli import tiny
from tests.support import counted, random_latency


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A front of W2A2, W4A4 and W8A8, of which W4A4 is the most accurate; its costs are wrong."""
    return made(tmp_path / "front")


def made(folder: Path, **changes: Any) -> Path:
    network = tiny.task().network
    points = tuple(
        FrontPoint(
            name=f"W{bits}A{bits}", layers=Policy.uniform(network, bits, bits).layers, costs={"bitops": 1},
            quality={"accuracy": accuracy, "loss": bits / 8},
        )
        for bits, accuracy in ((2, 0.5), (4, 0.9), (8, 0.8))
    )  # fmt: skip
    front = Front(
        fingerprint=network.fingerprint, points=points, method="by hand",
        measured=Measured(metrics=(ACCURACY.info,), on="nothing"),
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "network.json").write_text(network.to_json())
    replace(front, **changes).save(folder / "front.json")
    return folder


def test_a_front_is_read_with_costs_that_are_counted_anew(folder: Path) -> None:
    found = runs.pick(folder)
    uniform = [Policy.uniform(tiny.task().network, bits, bits).costs for bits in (2, 4, 8)]
    assert [one.costs for one in found.front.points] == uniform
    assert found.policy is found.budget is found.subject is None and found.files == {}
    assert runs.pick(folder / "front.json") == found


def test_the_best_within_the_budget_is_written(folder: Path, tmp_path: Path) -> None:
    network = tiny.task().network
    found = runs.pick(folder, ["bitops=8x8"], tmp_path / "p.json")
    assert found.policy == Policy.load(tmp_path / "p.json") and list(found.files) == [tmp_path / "p.json"]
    assert found.policy.layers == Policy.uniform(network, 4, 4).layers and found.pinned == tiny.pinned()
    assert found.costs is not None and found.costs.bitops == found.policy.costs["bitops"] < found.limits["bitops"]
    by_loss = runs.pick(folder, ["bitops=8x8"], by="loss")
    assert by_loss.policy is not None and by_loss.policy.layers["left"] == LayerBits(2, 2) and by_loss.files == {}
    free = runs.pick(folder, ["bitops=6x6"], first_last=None)
    assert free.limits["bitops"] == 36 * network.macs and free.pinned == ()
    other = runs.pick(folder, ["bitops=8x8"], first_last=LayerBits(4, 4))
    assert other.pinned == () and other.policy is not None


def test_limits_on_time_are_those_of_the_table(folder: Path, tmp_path: Path) -> None:
    times = random_latency(tiny.task().network)
    times.save(tmp_path / "times.json")
    found = runs.pick(folder, ["latency=1s"], latency=tmp_path / "times.json")
    assert found.policy is not None and found.policy.costs["latency_ns"] == times.cost(found.policy.layers)
    for one in (found, runs.pick(folder, latency=tmp_path / "times.json")):
        assert all(each.costs["latency_ns"] == times.cost(each.layers) for each in one.front.points)


def test_a_budget_is_resolved_once_and_every_policy_costed_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved, costed = counted(monkeypatch)
    found = runs.pick(folder, ["bitops=8x8"], tmp_path / "p.json", first_last=LayerBits(4, 8))
    assert len(resolved) == 1 and len(found.front.points) == 3
    assert [costed.count(dict(one.layers)) for one in found.front.points] == [1, 1, 1]
    assert [one.costs for one in found.front.points] == [one.costs for one in runs.pick(folder).front.points]


def test_limits_of_a_device_are_those_of_the_c(folder: Path, tmp_path: Path) -> None:
    """The code of 4 bits takes more flash than the weights save; a byte less, and W8A8 is the best that fits."""
    task, options = tiny.task(), COptions(kernels="dsp")
    lower = lower_at(task.model, task.network, task.example(), rounding="double", apart=True)
    sizes = {n: footprint(lower(Policy.uniform(task.network, n, n).layers), options=options) for n in (4, 8)}
    assert sizes[8].flash_bytes < sizes[4].flash_bytes
    _folder.begin(folder, {"command": "search", **tiny.subject().facts(), "method": "by hand", "settings": {}})
    at_4 = [f"flash={sizes[4].flash_bytes}B", "ram=2kB"]
    taken = runs.allocate(folder, at_4, tmp_path / "q.json", rounding="double")
    assert taken.policy.layers["left"] == LayerBits(4, 4) and taken.footprint == sizes[4]
    found = runs.pick(folder, [f"flash={sizes[4].flash_bytes - 1}B"], tmp_path / "p.json", rounding="double")
    assert found.policy is not None and found.policy == Policy.load(tmp_path / "p.json")
    assert found.policy.layers["left"] == LayerBits(8, 8) and found.footprint == sizes[8]
    assert found.policy.costs["flash_bytes"] == sizes[8].flash_bytes


@pytest.mark.parametrize("by", [None, "loss"])
def test_what_is_laid_out_as_c_is_what_is_picked(by: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Policy] = []
    layouts = SimpleNamespace(
        terms=Terms(), search=lambda search: searched.append(search(Terms())), lay_out=lambda layers: layers
    )
    monkeypatch.setattr(picking, "layouts_of", lambda *_: layouts)
    found = runs.pick(folder, ["bitops=8x8"], by=by)
    (first,) = searched
    assert found.policy is not None and first.layers == found.policy.layers == found.footprint


def test_options_of_c_without_a_limit_of_it_are_refused(folder: Path) -> None:
    for budget in ([], ["bitops=8x8"]):
        for more in ({"rounding": "double"}, {"c_options": COptions(row_alignment=4)}):
            with pytest.raises(BudgetError, match="options of C have no effect"):
                runs.pick(folder, budget, **more)  # type: ignore[arg-type]


def test_what_cannot_be_picked_writes_nothing(folder: Path, tmp_path: Path) -> None:
    for budget, error, text in (
        (["bitops=0.1k"], InfeasibleBudget, "The nearest, W2A2, needs bitops="),
        (["flash=64kB"], BudgetError, "flash and ram need the model, and .* does not say which it is"),
        (["latency=1ms"], BudgetError, "needs a latency table"),
        ([], BudgetError, "Without a budget nothing is picked"),
    ):
        with pytest.raises(error, match=text):
            runs.pick(folder, budget, tmp_path / "p.json")
    assert not (tmp_path / "p.json").exists()
    with pytest.raises(BudgetError, match="Without a budget"):
        runs.pick(folder, by="loss")


def test_weights_and_model_must_be_those_of_the_front(tmp_path: Path) -> None:
    weights = tmp_path / "w"
    weights.write_bytes(b"1")
    folder = made(tmp_path / "front", weights=WeightsFile.of(weights, tmp_path / "front"))
    assert runs.pick(folder).weights == weights
    weights.write_bytes(b"2")
    with pytest.raises(PolicyError, match="measured with other weights"):
        runs.pick(folder)
    foreign = made(tmp_path / "foreign", fingerprint="sha256:0123456789abcdef")
    with pytest.raises(PolicyError, match="This front was made for another model"):
        runs.pick(foreign)
    (foreign / "network.json").unlink()
    with pytest.raises(MixbitError, match="network.json"):
        runs.pick(foreign)
    with pytest.raises(PolicyError, match=r"No file at .*front\.json"):
        runs.pick(tmp_path)
