"""Scores in a run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from safetensors.torch import save

from mixbit import _io, runs
from mixbit.cost import Budget, LayerBits, uniform_bits
from mixbit.errors import BudgetError, InfeasibleBudget, MixbitError, PolicyError, StaleRun
from mixbit.export.c import COptions, footprint, memory_table
from mixbit.integer import lower_at
from mixbit.methods import RandomSearch, UniformFront, registry
from mixbit.metric import LOSS
from mixbit.policy import Front, FrontPoint, LayerScores, Measured, Policy, Scores, Terms, WeightsFile, resolve_pins
from mixbit.runs import Searched, Subject
from mixbit.runs.searching import _Tables
from mixbit.task import Task
from mixbit.training import KurtosisConfig, KurtosisPenalty
from tests.cli import tiny
from tests.support import counted, random_latency


def test_folder_holds_scores_network_and_settings(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    scores = Scores.load(folder / "scores.json")
    assert len(scores.layers) == 8 and set(scores.layers["layer1.conv1"].weight) == {2, 3, 4}
    config = json.loads((folder / "config.json").read_text())
    assert config["method"] == "limpq-init" and config["subject"] == subject.to_json()


def test_finished_search_is_only_read(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    stamp = (folder / "scores.json").stat().st_mtime_ns
    again = runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    assert (folder / "scores.json").stat().st_mtime_ns == stamp
    assert again.scores == Scores.load(folder / "scores.json")
    text = (folder / "scores.json").read_text()
    (folder / "scores.json").write_text(text[:-40])
    with pytest.raises(PolicyError, match=r"is not JSON.* Take the file away, and the same search writes it anew"):
        runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    (folder / "scores.json").unlink()
    runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    assert (folder / "scores.json").read_text() == text


def test_an_older_network_file_is_written_anew_and_nothing_is_searched(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    stamp, text = (folder / "scores.json").stat().st_mtime_ns, (folder / "network.json").read_text()
    older = json.loads(text) | {"version": 1}
    (folder / "network.json").write_text(json.dumps(older))
    runs.search(subject, "limpq-init", {"bits": [4, 3, 2]}, folder, quiet=True)
    assert (folder / "network.json").read_text() == text
    assert (folder / "scores.json").stat().st_mtime_ns == stamp


def test_other_settings_are_refused_by_name(searched: tuple[Subject, Path]) -> None:
    subject, folder = searched
    with pytest.raises(StaleRun, match=r"settings.bits=\[4, 3, 2\], now settings.bits=\[4, 2\]"):
        runs.search(subject, "limpq-init", {"bits": [4, 2]}, folder, quiet=True)


def test_training_search_in_a_folder(searched: tuple[Subject, Path], tmp_path: Path) -> None:
    settings = {"bits": [4, 2], "epochs": 1, "fraction": 0.2, "batch_size": 64}
    done = runs.search(searched[0], "limpq", settings, tmp_path / "limpq", quiet=True)
    assert {path.name for path in done.files} == {"scores.json", "network.json", "config.json", "metrics.jsonl"}
    assert all(path.is_file() for path in done.files)


REGRESSION = """
import torch
from torch import nn
import mixbit

data = [(torch.ones(4, 3), torch.ones(4, 1))]
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1))
task = mixbit.Task(model=model, train=data, test=data, loss=nn.functional.mse_loss, metric=METRIC)
"""


def test_a_mistake_in_loss_or_metric_claims_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REGRESSION.replace("METRIC", "mixbit.metric.accuracy()"))
    (tmp_path / "good.py").write_text(REGRESSION.replace("METRIC", "None"))
    subject, good = (Subject(model=f"{tmp_path / name}.py:task") for name in ("mine", "good"))
    for begin in (
        lambda: runs.train(subject, None, {"epochs": 1, "batch_size": 4}, tmp_path / "run", quiet=True),
        lambda: runs.search(subject, "sqnr", {}, tmp_path / "run", quiet=True),
    ):
        with pytest.raises(MixbitError, match="accuracy needs"):
            begin()
    settings = {"bits": [4, 2], "epochs": 1, "batch_size": 4, "fraction": 1.0}
    with pytest.raises(MixbitError, match="--set label_smoothing=0"):
        runs.search(good, "limpq", {**settings, "label_smoothing": 0.1}, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    assert "not smoothed" in runs.search(good, "limpq", settings, tmp_path / "run", quiet=True).notes[0]


def test_all_that_a_method_is_made_of_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Seen:
        step: float = 1.0
        seed: int = 0

        def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Scores:
            seen.append((self.step, self.seed, run, quiet, task.penalty))
            curve = LayerScores(weight={8: 0.0, 2: 1.0}, activation={8: 0.0, 2: 1.0})
            layers = dict.fromkeys((layer.name for layer in task.network.layers), curve)
            notes: dict[str, Any] = {"notes": ["one", "two"]}
            return Scores(fingerprint=task.network.fingerprint, method="t", layers=layers, settings=notes)

    monkeypatch.setattr(registry, "_METHODS", registry._METHODS.copy())
    for name, cost in (("test-trains", "training"), ("test-looks", "forward")):
        registry.register(name, name, source="ours", cost=cost)(Seen)  # type: ignore[arg-type]
    subject, settings = replace(tiny.subject(), seed=3), {"step": 0.5, "kurtosis": 0.25}
    done = runs.search(subject, "test-trains", settings, tmp_path / "a", task=tiny.task(), quiet=True)
    ((*plain, penalty),) = seen
    assert plain == [0.5, 3, tmp_path / "a", True] and done.notes == ("one", "two")
    assert isinstance(penalty, KurtosisPenalty) and penalty.config == KurtosisConfig(weight=0.25)
    runs.search(subject, "test-looks", {"seed": 7}, tmp_path / "b", task=tiny.task())
    assert seen[1] == (1.0, 7, tmp_path / "b", False, tiny.task().penalty)
    with pytest.raises(MixbitError, match="kurtosis=0.25 has no effect on test-looks"):
        runs.search(subject, "test-looks", settings, tmp_path / "c", task=tiny.task(), quiet=True)
    assert not (tmp_path / "c").exists()


# ------------------------------------------------------------------------------------------- policies and fronts

SMALL = {"images": 16, "calibration_images": 8}


def test_a_policy_is_searched_under_its_budget(tmp_path: Path) -> None:
    network = tiny.task().network
    times = random_latency(network, bits=(8, 6, 5, 4, 3, 2))
    times.save(tmp_path / "times.json")
    settings, budget = {**SMALL, "trials": 3}, ["bitops=5x5", "latency=1ms"]
    how: dict[str, Any] = {
        "budget": budget, "pins": {"left": LayerBits(3, 4)}, "first_last": None, "latency": tmp_path / "times.json",
    }  # fmt: skip

    def searched(**more: Any) -> Searched:
        given = {**how, **more}
        return runs.search(
            tiny.subject(), "random-search", settings, tmp_path / "r", **given, task=tiny.task(), quiet=True
        )

    done = searched()
    policy = done.result
    assert isinstance(policy, Policy) and policy == Policy.load(tmp_path / "r" / "policy.json")
    pins = {"left": LayerBits(3, 4)}
    terms, parsed = Terms(pins=pins, latency=times), Budget.parse(budget)
    wanted = RandomSearch(**settings).search(tiny.task(), parsed, terms=terms, quiet=True)
    assert policy == wanted and policy.layers["left"] == LayerBits(3, 4) and "latency_ns" in policy.costs
    assert done.pinned == ("left",) and done.limits == terms.limits(network, parsed)
    assert done.costs == terms.costs(network, policy.layers) and done.notes == tuple(policy.notes)
    assert {path.name for path in done.files} == {"policy.json", "network.json", "config.json"}
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert (config["budget"], config["pins"], config["first_last"]) == (budget, {"left": "W3A4"}, None)
    stamp = (tmp_path / "r" / "policy.json").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patched:  # it is only read now
        resolved, costed = counted(patched)
        assert searched() == done and len(resolved) == 1 and costed.count(dict(policy.layers)) == 1
    assert searched() == done and (tmp_path / "r" / "policy.json").stat().st_mtime_ns == stamp
    with pytest.raises(StaleRun, match="begun with budget="):
        searched(budget=["bitops=4x4"])
    with pytest.raises(StaleRun, match="begun with pins.left='W3A4'"):
        searched(pins={"left": LayerBits(2, 4)})
    random_latency(network, bits=(8, 6, 5, 4, 3, 2), seed=1).save(tmp_path / "other.json")
    with pytest.raises(StaleRun, match="begun with latency="):
        searched(latency=tmp_path / "other.json")
    with pytest.raises(MixbitError, match="random-search ends in a policy, and not in scores"):
        print(done.scores)


def test_episodes_of_a_search_come_along(tmp_path: Path) -> None:
    settings = {**SMALL, "episodes": 4, "warmup": 2}
    how: dict[str, Any] = {"budget": ["ram=1100B", "bitops=6x6"], "task": tiny.task(), "quiet": True}
    done = runs.search(tiny.subject(), "haq", settings, tmp_path / "r", **how)
    assert isinstance(done.result, Policy) and done.footprint is not None and done.footprint.ram_bytes <= 1100
    assert [one.number for one in done.episodes] == [0, 1, 2, 3]
    assert max(one.reward for one in done.episodes) == done.result.allocation["objective"]
    assert tmp_path / "r" / "haq-episodes.jsonl" in done.files
    assert runs.search(tiny.subject(), "haq", settings, tmp_path / "r", **how) == done
    with pytest.raises(StaleRun, match="begun with settings.episodes=4, now settings.episodes=5"):
        runs.search(tiny.subject(), "haq", {**settings, "episodes": 5}, tmp_path / "r", **how)


def test_a_search_under_limits_of_a_device_ends_in_c_that_fits(tmp_path: Path) -> None:
    """Flash, RAM and options of C are counted as `allocate` counts them, of the policy that is laid out."""
    options = COptions(kernels="plain", pack_activations=True)
    how: dict[str, Any] = {"budget": ["flash=5x5", "ram=1100B", "bitops=6x6"], "c_options": options}
    how |= {"rounding": "double", "task": tiny.task(), "quiet": True}

    def searched(**more: Any) -> Searched:
        return runs.search(tiny.subject(), "random-search", {**SMALL, "trials": 2}, tmp_path / "r", **{**how, **more})

    done, task = searched(), tiny.task()
    assert isinstance(done.result, Policy) and done.footprint is not None and done.costs is not None
    lower = lower_at(task.model, task.network, task.example(), rounding="double", apart=True)
    wanted = footprint(lower(done.result.layers), options=options)
    at_5 = uniform_bits(task.network, LayerBits(5, 5), resolve_pins(task.network, None, LayerBits(8, 8)))
    assert (done.footprint.flash_bytes, done.footprint.ram_bytes) == (wanted.flash_bytes, wanted.ram_bytes)
    counted_at_5 = memory_table(task.network, lower, options=options).flash(at_5)
    assert done.limits == {"flash_bytes": counted_at_5, "ram_bytes": 1100, "bitops": done.limits["bitops"]}
    assert footprint(lower(at_5), options=options).flash_bytes <= counted_at_5
    assert wanted.flash_bytes <= done.limits["flash_bytes"] and wanted.ram_bytes <= 1100
    assert (done.result.costs["flash_bytes"], done.result.costs["ram_bytes"]) == (
        done.costs.flash_bytes,
        done.costs.ram_bytes,
    )
    assert done.result == Policy.load(tmp_path / "r" / "policy.json") and searched() == done
    assert json.loads((tmp_path / "r" / "config.json").read_text())["rounding"] == "double"
    with pytest.raises(StaleRun, match=r"begun with c_options.kernels='plain'"):
        searched(c_options=COptions(pack_activations=True, kernels="dsp"))
    with pytest.raises(InfeasibleBudget, match="flash=10"):
        runs.search(tiny.subject(), "random-search", SMALL, tmp_path / "q", **{**how, "budget": ["flash=10B"]})


def test_a_front_knows_the_weights_that_it_is_of(tmp_path: Path) -> None:
    weights = tmp_path / "w" / "model.safetensors"
    _io.write_bytes(weights, save(tiny.task().model.state_dict()))
    subject = replace(tiny.subject(), weights=weights)
    done = runs.search(subject, "uniform-front", {**SMALL, "bits": [4, 2]}, tmp_path / "f", quiet=True)
    assert isinstance(done.result, Front) and done.result == Front.load(tmp_path / "f" / "front.json")
    assert done.result.weights == WeightsFile(path="../w/model.safetensors", digest=_io.digest(weights))
    assert {path.name for path in done.files} == {"front.json", "network.json", "config.json"}
    assert done.result.weights.check(tmp_path / "f") == weights
    own = WeightsFile(path="supernet.safetensors", digest="blake2b:1")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(UniformFront, "search", lambda *_given, **_named: replace(done.result, weights=own))
        kept = runs.search(subject, "uniform-front", {**SMALL, "bits": [4, 2]}, tmp_path / "o", quiet=True)
    assert isinstance(kept.result, Front) and kept.result.weights == own  # a method that made weights names them
    bare = runs.search(tiny.subject(), "uniform-front", {**SMALL, "bits": [4, 2]}, tmp_path / "g", quiet=True)
    assert isinstance(bare.result, Front) and bare.result.weights is None and bare.notes == tuple(bare.result.notes)


def test_policies_whose_layout_does_not_fit_leave_the_front() -> None:
    network = tiny.task().network
    points = [Policy.uniform(network, bits, bits) for bits in (8, 4, 2)]
    front = Front(fingerprint=network.fingerprint, measured=Measured(metrics=(LOSS,), on="nothing"), points=tuple(
        FrontPoint(layers=one.layers, costs=one.costs, quality={"loss": 1.0}) for one in points
    ))  # fmt: skip

    def tables(most: int) -> _Tables:
        stub = SimpleNamespace(
            lay_out=lambda layers: layers["left"].weight_bits,
            fits=lambda bits: bits <= most,
            terms=Terms(),
            out_of_reach=lambda cause: InfeasibleBudget("ram=1B", nearest={}, blocking=[]),
        )
        return _Tables(layouts=cast(Any, stub))

    found = tables(4).laid_out(front, network)
    assert [one.layers for one in found.points] == [points[1].layers, points[2].layers]
    assert found.notes == ["1 of 3 policies were left out: laid out as C, they take more than the limits"]
    assert tables(8).laid_out(front, network) == front == _Tables().laid_out(front, network)
    with pytest.raises(InfeasibleBudget, match="ram=1B"):
        tables(1).laid_out(front, network)


def test_a_front_tells_times_by_a_table(tmp_path: Path) -> None:
    network, table = tiny.task().network, tmp_path / "times.json"
    times = random_latency(network, (2, 4, 8), seed=1)
    times.save(table)
    settings, how = {**SMALL, "bits": [4, 2]}, {"latency": table, "task": tiny.task(), "quiet": True}
    found = runs.search(tiny.subject(), "uniform-front", settings, tmp_path / "f", **how).result
    assert isinstance(found, Front) and found == Front.load(tmp_path / "f" / "front.json")
    assert [one.costs["latency_ns"] for one in found.points] == [times.cost(one.layers) for one in found.points]
    random_latency(network, (2, 4, 8), seed=2).save(table)
    with pytest.raises(StaleRun, match="latency"):
        runs.search(tiny.subject(), "uniform-front", settings, tmp_path / "f", **how)


def test_a_front_method_without_terms_has_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_latency(tiny.task().network, (2, 8)).save(tmp_path / "times.json")
    how: dict[str, Any] = {"latency": tmp_path / "times.json", "task": tiny.task(), "quiet": True}
    monkeypatch.setattr(UniformFront, "search", lambda self, task, run=None, quiet=False: None)
    with pytest.raises(BudgetError, match="latency has no effect"):
        runs.search(tiny.subject(), "uniform-front", SMALL, tmp_path / "f", **how)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("method", "more", "text"),
    [
        ("random-search", {}, "searches under a budget, and there is none. Give --budget bitops=3x3"),
        ("fit", {"budget": ["bitops=3x3"]}, "ends in a table of scores, which serves every budget.*mixbit allocate"),
        ("uniform-front", {"budget": ["bitops=3x3"]}, "ends in a front, which serves every budget.*mixbit front picks"),
        ("fit", {"pins": {"left": LayerBits(2, 2)}}, "Leave budget, pins, first_last, latency and options of C out"),
        ("fit", {"first_last": None}, "Leave budget, pins, first_last, latency and options of C out"),
        ("fit", {"rounding": "double"}, "Leave budget, pins, first_last, latency and options of C out"),
        ("fit", {"c_options": COptions()}, "Leave budget, pins, first_last, latency and options of C out"),
        ("uniform-front", {"pins": {"left": LayerBits(2, 2)}}, "Leave budget, pins and first_last out"),
        ("uniform-front", {"rounding": "double"}, "options of C have no effect: neither costs nor limits"),
        ("random-search", {"budget": ["bitop=3x3"]}, "Did you mean 'bitops'"),
        ("random-search", {"budget": ["latency=1ms"]}, "needs a latency table"),
        ("random-search", {"budget": ["flash=10B", "latency=1ms"]}, "needs a latency table"),
        ("random-search", {"budget": ["bitops=3x3"], "pins": {"lef": LayerBits(2, 2)}}, "'lef'"),
    ],
)
def test_a_budget_that_cannot_be_claims_no_folder(method: str, more: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=text):
        runs.search(tiny.subject(), method, {}, tmp_path / "r", **more, task=tiny.task(), quiet=True)
    assert not (tmp_path / "r").exists()
