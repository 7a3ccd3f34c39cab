"""A policy from a run folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixbit import runs
from mixbit.allocation import AllocationSettings, decide
from mixbit.cost import Budget, LayerBits
from mixbit.errors import BudgetError, InfeasibleBudget, MixbitError
from mixbit.export.c import COptions, footprint
from mixbit.integer import lower_at
from mixbit.metric import ACCURACY
from mixbit.network import Network
from mixbit.policy import Front, FrontPoint, Measured, Policy, Scores
from mixbit.runs import Subject, allocating
from mixbit.runs.inspecting import open_model
from tests.cli import tiny
from tests.cli.typed import typed
from tests.support import counted


def test_policy_meets_the_budget_and_is_written(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    subject, folder = searched
    done = runs.allocate(folder, ["bitops=3x3"], tmp_path / "policy.json")
    assert done.costs.bitops <= done.limits["bitops"] and done.allocation.proven
    assert Policy.load(tmp_path / "policy.json") == done.policy
    assert done.subject == subject and done.pinned == ("conv1", "fc")


def test_costs_are_in_the_counting_that_was_asked_for(tmp_path: Path) -> None:
    """LIMPQ's code counts half positions where a stride leaves some over."""
    network = tiny.task().network
    for macs, key in (("exact", "macs"), ("limpq", "macs_limpq")):
        done = runs.allocate(tiny.scores(), ["bitops=4x4"], tmp_path / "policy.json", AllocationSettings(macs=macs))  # type: ignore[arg-type]
        found = [(getattr(one, key), done.policy.layers[one.name]) for one in network.layers]
        used = sum(n * (bits.weight_bits or 32) * (bits.activation_bits or 32) for n, bits in found)
        assert done.costs.bitops == done.policy.costs["bitops"] == used <= done.limits["bitops"]
    assert sum(one.macs_limpq for one in network.layers) != sum(one.macs for one in network.layers)


def test_pins_and_free_ends(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    pins = {"re:layer3.*": LayerBits(4, 4), "conv1": LayerBits(8, 8), "fc": LayerBits(8, 8)}
    done = runs.allocate(searched[1], ["bitops=3x3"], tmp_path / "p.json", AllocationSettings(pins=pins))
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


def test_flash_and_ram_are_those_of_the_c(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    options = COptions(kernels="plain", pack_activations=True)
    budget = ["flash=32kB", "ram=3.5kB", "bitops=6x6"]
    done = runs.allocate(searched[1], budget, tmp_path / "policy.json", c_options=options)
    assert done.footprint is not None
    assert done.footprint.flash_bytes <= done.costs.flash_bytes <= 32_000  # type: ignore[operator]
    assert done.footprint.ram_bytes <= 3_500
    assert done.policy.costs["flash_bytes"] == done.costs.flash_bytes
    opened = open_model(searched[0])
    apart, calibrated = (
        lower_at(opened.model, opened.network, opened.example, rounding="single", apart=apart)(done.policy.layers)
        for apart in (True, False)
    )
    assert footprint(apart, options=options) == done.footprint
    # Training moves the steps of a tensor's readers apart; calibration gives them one, and saves a requantization.
    assert footprint(calibrated, options=options).flash_bytes < done.footprint.flash_bytes


def test_flash_holds_where_readers_of_one_tensor_want_different_bits(
    searched: tuple[Subject, Path], tmp_path: Path
) -> None:
    """Each of them has its own requantization then, which no uniform network has."""
    pins = {"layer2.conv1": LayerBits(8, 2), "layer2.downsample.0": LayerBits(8, 4), "layer3.conv1": LayerBits(8, 3)}
    settings = AllocationSettings(pins=pins, first_last=LayerBits(8, 8))
    done = runs.allocate(searched[1], ["flash=60kB"], tmp_path / "policy.json", settings)
    assert done.footprint is not None and done.footprint.flash_bytes <= 60_000


def test_flash_without_a_model_is_an_error(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    for name in ("scores.json", "network.json"):
        shutil.copy(searched[1] / name, tmp_path / name)
    with pytest.raises(BudgetError, match=r"flash and ram need the model.*memory="):
        runs.allocate(tmp_path / "scores.json", ["flash=64kB"], tmp_path / "policy.json")


def test_settings_and_tables_reach_the_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(allocating, "decide", lambda *given: (asked.append(given[3]), decide(*given))[1])
    settings = AllocationSettings(
        pins={"left": LayerBits(4, 2)}, ties=False, alpha=2.0, macs="limpq", repair="isotonic", exact=True
    )
    done = runs.allocate(tiny.scores(), ["bitops=6x6"], tmp_path / "p.json", settings)
    assert asked == [settings] and done.pinned == ("left",)
    # The harm by hand: weights count twice, and no end of the network is pinned.
    scores = Scores.load(tiny.scores() / "scores.json")
    harm = sum(
        scores.layers[name].activation[bits.activation_bits or 0]
        + 2.0 * scores.layers[name].weight[bits.weight_bits or 0]
        for name, bits in done.policy.layers.items()
        if name != "left"
    )
    assert done.allocation.objective == pytest.approx(harm)
    assert done.limits == {"bitops": sum(
        one.macs_limpq * (8 if one.name == "left" else 36) for one in tiny.task().network.layers
    )}  # fmt: skip
    runs.allocate(tiny.scores(), ["bitops=6x6"], tmp_path / "p.json")
    assert asked[1] == AllocationSettings(or_uniform=True)


def test_all_that_a_layout_depends_on_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Enough(Exception):
        pass

    def fit(*given: Any, options: COptions) -> None:
        seen[:] = *given, options
        raise Enough

    monkeypatch.setattr(allocating, "allocate_to_fit", fit)
    settings = AllocationSettings(pins={"right": LayerBits(8, 4)}, first_last=LayerBits(8, 8))
    with pytest.raises(Enough):
        runs.allocate(tiny.scores(), ["flash=20kB"], tmp_path / "p.json", settings, rounding="double")
    network, scores, budget, lower, passed, options = seen
    assert network == tiny.task().network and budget.texts == {"flash": "20kB"}
    assert scores == Scores.load(tiny.scores() / "scores.json")
    assert (passed, options) == (settings, COptions(kernels="dsp"))
    graph = lower({layer.name: LayerBits(8, 8) for layer in network.layers})
    assert {op.rounding for op in graph.weighted()} == {"double"}


def test_another_model_than_that_of_the_scores_is_an_error(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny.scores(), tmp_path / "s")
    other = Network.from_json((folder / "network.json").read_text())
    layers = tuple(replace(one, macs=one.macs + 1, weight_shape=(*one.weight_shape[:-1], 1)) for one in other.layers)
    other = replace(other, layers=layers)
    (folder / "network.json").write_text(other.to_json())
    table = replace(Scores.load(folder / "scores.json"), fingerprint=other.fingerprint)
    table.save(folder / "scores.json")
    with pytest.raises(BudgetError, match="another one now"):
        runs.allocate(folder, ["ram=1kB"], tmp_path / "p.json")


# ------------------------------------------------------------------------------------------- policies and fronts


def under_budget(folder: Path) -> Path:
    settings = {"trials": 2, "images": 16, "calibration_images": 8}
    runs.search(tiny.subject(), "random-search", settings, folder, budget=["bitops=4x4"], task=tiny.task(), quiet=True)
    return folder


def test_a_searched_policy_is_taken_where_it_is_within_the_budget(tmp_path: Path) -> None:
    folder = under_budget(tmp_path / "r")
    searched = Policy.load(folder / "policy.json")
    for source in (folder, folder / "policy.json"):
        done = runs.allocate(source, ["bitops=5x5"], tmp_path / "p.json")
        assert done.policy == searched == Policy.load(tmp_path / "p.json") and done.allocation is None
        assert done.pinned == tiny.pinned() and done.subject == tiny.subject()
        assert done.costs.bitops == searched.costs["bitops"] <= done.limits["bitops"]
    text = "exceeded: bitops=2x2 .* holds a policy that random-search searched under bitops=4x4; another budget is"
    with pytest.raises(BudgetError, match=text):
        runs.allocate(folder, ["bitops=2x2"], tmp_path / "q.json")
    assert not (tmp_path / "q.json").exists()


@pytest.mark.parametrize("given", [{"c_options": COptions(kernels="plain")}, {"rounding": "double"}])
def test_options_of_c_are_refused_where_no_limit_is_of_it(given: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    for call in (
        lambda: runs.allocate(tiny.scores(), ["bitops=5x5"], out, **given),
        lambda: runs.pick(front(tmp_path / "f"), ["bitops=5x5"], out, **given),
        lambda: runs.pick(front(tmp_path / "f"), **given),
        lambda: runs.search(tiny.subject(), "random-search", {}, tmp_path / "r", budget=["bitops=5x5"], **given),
    ):
        with pytest.raises(BudgetError, match="options of C have no effect.*or give a limit on flash or ram"):
            call()
    assert not out.exists() and not (tmp_path / "r").exists()


def front(folder: Path) -> Path:
    """Two uniform networks by hand."""
    network = tiny.task().network
    points = tuple(
        FrontPoint(layers=Policy.uniform(network, bits, bits).layers, costs={"bitops": 1}, quality={"accuracy": 0.5})
        for bits in (2, 4)
    )
    measured = Measured(metrics=(ACCURACY.info,), on="nothing")
    folder.mkdir(exist_ok=True)
    (folder / "network.json").write_text(network.to_json())
    Front(fingerprint=network.fingerprint, points=points, method="by hand", measured=measured).save(
        folder / "front.json"
    )
    return folder


def test_a_searched_policy_is_held_against_limits_of_a_device(tmp_path: Path) -> None:
    folder = under_budget(tmp_path / "r")
    done = runs.allocate(folder, ["flash=1MB", "bitops=4x4"], tmp_path / "p.json", rounding="double")
    task = tiny.task()
    lower = lower_at(task.model, task.network, task.example(), rounding="double", apart=True)
    assert done.footprint == footprint(lower(done.policy.layers), options=COptions(kernels="dsp"))
    assert done.costs.flash_bytes == done.policy.costs["flash_bytes"]
    with pytest.raises(BudgetError, match=r"flash=1kB.*another budget is another"):
        runs.allocate(folder, ["flash=1kB"], tmp_path / "q.json")
    assert not (tmp_path / "q.json").exists()


def test_a_front_is_picked_from(tmp_path: Path) -> None:
    settings = {"images": 16, "calibration_images": 8, "bits": [4, 2]}
    runs.search(tiny.subject(), "uniform-front", settings, tmp_path / "f", task=tiny.task(), quiet=True)
    for source in (tmp_path / "f", tmp_path / "f" / "front.json"):
        done = runs.allocate(source, ["bitops=2x2"], tmp_path / "p.json")
        assert done.policy.layers["left"] == LayerBits(2, 2) and done.allocation is None
        assert done.policy == runs.pick(source, ["bitops=2x2"]).policy == Policy.load(tmp_path / "p.json")
    with pytest.raises(InfeasibleBudget, match="None of the front's 2 policies"):
        runs.allocate(tmp_path / "f", ["bitops=1k"], tmp_path / "q.json")
    with pytest.raises(BudgetError, match="budget is empty"):
        runs.allocate(tmp_path / "f", [], tmp_path / "q.json")


@pytest.mark.parametrize(
    "given",
    [
        {"pins": {"left": LayerBits(2, 2)}},
        {"ties": False},
        {"alpha": 0.5},
        {"macs": "limpq"},
        {"repair": "none"},
        {"exact": True},
    ],
)
def test_options_that_choose_from_scores_are_refused_without_scores(given: dict[str, Any], tmp_path: Path) -> None:
    folder = under_budget(tmp_path / "r")
    with pytest.raises(BudgetError, match=f"{next(iter(given))}: no effect on .*policy.json, which holds no scores"):
        runs.allocate(folder, ["bitops=5x5"], tmp_path / "p.json", AllocationSettings(**given))
    runs.allocate(tiny.scores(), ["bitops=5x5"], tmp_path / "p.json", AllocationSettings(**given))


def test_a_budget_is_resolved_and_its_policy_costed_once_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line down to the solver and back; `3x3` is what the uniform network costs, which is another."""
    resolved, costed = counted(monkeypatch)
    typed("allocate", tiny.scores(), "--budget", "bitops=5x5", "--out", tmp_path / "p.json")
    policy = Policy.load(tmp_path / "p.json")
    uniform = Policy.uniform(tiny.task().network, 5, 5).layers
    assert resolved == [Budget.parse(["bitops=5x5"])] and policy.layers != uniform
    assert costed.count(dict(policy.layers)) == 1


def test_a_searched_policy_is_costed_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = under_budget(tmp_path / "r")
    resolved, costed = counted(monkeypatch)
    runs.allocate(folder, ["bitops=5x5"], tmp_path / "p.json")
    assert len(resolved) == 1 and costed.count(dict(Policy.load(tmp_path / "p.json").layers)) == 1
