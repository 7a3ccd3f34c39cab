"""One at a time: the rise of the loss is that of the quantized model, and a killed search goes on."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError, StaleRun
from mixbit.methods import OneAtATime
from mixbit.methods.one_at_a_time import decreases
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.sensitivity.suffix import Suffix
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task

SHORT: dict[str, Any] = {"bits": (4, 2), "images": 20, "batch_size": 8, "step_images": 8}


class TestOneAtATime(MethodCases):
    def method(self, seed: int) -> OneAtATime:
        return OneAtATime(seed=seed, images=16, bits=(6, 4, 3, 2))

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def test_harm_is_the_rise_of_the_loss(task: Task) -> None:
    x, y = next(task.train.batches(20, seed=0, shuffle=True))
    probe = Perturbation(task, (4, 2), (4, 2), x[:8])
    scores = OneAtATime(**SHORT).search(task, quiet=True)

    def loss(chosen: dict[str, LayerBits]) -> float:
        with torch.no_grad(), probe.chosen(chosen) as model:
            return float(F.cross_entropy(model(x), y))

    assert scores.settings["base_loss"] == pytest.approx(loss({}), rel=1e-6)
    for name in ("conv1", "conv2", "hidden"):
        for side, bits in (("weight", LayerBits(2, None)), ("activation", LayerBits(None, 2))):
            wanted = loss({name: bits}) - loss({})
            assert getattr(scores.layers[name], side)[2] == pytest.approx(wanted, abs=1e-6)


def test_divergence_is_from_the_float_network(task: Task) -> None:
    x, _ = next(task.train.batches(20, seed=0, shuffle=True))
    probe = Perturbation(task, (4, 2), (4, 2), x[:8])
    scores = OneAtATime(measure="kl", **SHORT).search(task, quiet=True)
    with torch.no_grad():
        p = probe.model(x).double().softmax(1)
        with probe.chosen({"conv2": LayerBits(2, None)}) as model:
            q = model(x).double().softmax(1)
    assert scores.layers["conv2"].weight[2] == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-3)
    assert scores.settings["base_loss"] == pytest.approx(0, abs=1e-12)
    assert all(
        harm >= -1e-12 for la in scores.layers.values() for harm in [*la.weight.values(), *la.activation.values()]
    )


def test_passes_with_and_without_cache(task: Task) -> None:
    settings = OneAtATime(**SHORT).search(task, quiet=True).settings
    macs = {layer.name: layer.macs for layer in task.network.layers}
    total, order = sum(macs.values()), list(macs)
    shares = {n: sum(macs[m] for m in order[order.index(n) :]) / total for n in ("conv1", "conv2", "hidden")}
    passes: Any = settings["passes"]
    assert passes["without_cache"] == 1 + 3 * 4
    assert passes["with_cache_equivalents"] == pytest.approx(1 + 4 * sum(shares.values()), abs=1e-3)
    assert settings["prefix_caching"] is True


def test_little_memory_means_small_chunks_and_the_same_scores(task: Task) -> None:
    whole = OneAtATime(**SHORT).search(task, quiet=True)
    probe = Perturbation(task, (4, 2), (4, 2), task.example(8))
    one_image = 2 * Suffix(task, probe, task.example(2)).bytes_per_image(task.example(2))
    assert whole.settings["chunk_images"] == 8
    assert whole.settings["cache_mib_used"] == pytest.approx(8 * one_image / 2**20, abs=1e-3)
    tight = OneAtATime(**{**SHORT, "cache_mib": 0}).search(task, quiet=True)
    assert tight.settings["chunk_images"] == 1
    for name, layer in whole.layers.items():
        assert tight.layers[name].weight == pytest.approx(layer.weight, abs=1e-6)


def test_a_killed_search_goes_on(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = OneAtATime(**SHORT).search(task, quiet=True)
    calls, run = 0, Suffix.run

    def dies(self: Suffix, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Suffix, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        OneAtATime(**SHORT).search(task, run=tmp_path, quiet=True)
    after = OneAtATime(**SHORT).search(task, run=tmp_path, quiet=True)
    assert after.layers == wanted.layers
    assert calls < 20 + 3 * 13  # it did not begin anew
    path = tmp_path / "one-at-a-time.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3] + lines[4:]))  # a row that was taken out by hand is measured again
    assert OneAtATime(**SHORT).search(task, run=tmp_path, quiet=True).layers == wanted.layers
    assert len(path.read_text().splitlines()) == len(lines)


def test_state_of_other_settings_or_models_is_refused(task: Task, tmp_path: Path) -> None:
    OneAtATime(**SHORT).search(task, run=tmp_path, quiet=True)
    with pytest.raises(StaleRun, match="measure='loss'"):
        OneAtATime(measure="kl", **SHORT).search(task, run=tmp_path, quiet=True)
    other = tiny_task().model
    with torch.no_grad():
        other.get_parameter("conv1.weight").mul_(2)
    with pytest.raises(StaleRun, match="weights='blake2b"):
        OneAtATime(**SHORT).search(dataclasses.replace(task, model=other), run=tmp_path, quiet=True)
    (tmp_path / "one-at-a-time.jsonl").write_text("[]")
    with pytest.raises(StaleRun, match="no partial measurement"):
        OneAtATime(**SHORT).search(task, run=tmp_path, quiet=True)


def test_fewer_images_than_asked_for_are_all_taken(task: Task) -> None:
    settings = OneAtATime(**{**SHORT, "images": 10_000}).search(task, quiet=True).settings
    assert settings["images_used"] == 64


def test_threads_do_not_change_the_scores(task: Task) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(OneAtATime(**SHORT).search(task, quiet=True))
    finally:
        torch.set_num_threads(threads)
    for name, layer in found[0].layers.items():
        assert found[1].layers[name].weight == pytest.approx(layer.weight, abs=1e-6)


def test_large_decreases_are_listed() -> None:
    """Those of more than a hundredth of the largest rise."""
    harms: dict[Any, float] = {
        ("a", "weight", 2): 2.0,
        ("a", "weight", 3): 1.0,
        ("a", "weight", 4): -0.019,
        ("a", "activation", 4): -0.021,
        ("b", "activation", 4): -0.5,
    }
    assert decreases(harms) == ["a (activation) at 4 bits: -0.021", "b (activation) at 4 bits: -0.5"]
    assert decreases({("a", "weight", 2): -0.25}) == ["a (weight) at 2 bits: -0.25"]


def test_a_loss_that_is_not_finite_is_an_error(task: Task) -> None:
    model = tiny_task().model
    with torch.no_grad():
        model.get_parameter("head.bias")[0] = torch.inf
    with pytest.raises(MixbitError, match="the loss is (nan|inf) with"):
        OneAtATime(**SHORT).search(dataclasses.replace(task, model=model), quiet=True)


@pytest.mark.parametrize("wrong", [{"measure": "accuracy"}, {"images": 0}, {"bits": ()}])
def test_illegal_settings_are_errors(task: Task, wrong: dict[str, object]) -> None:
    with pytest.raises(MixbitError, match=f"{next(iter(wrong))}="):
        OneAtATime(**wrong).search(task, quiet=True)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- options


SMALL = partial(OneAtATime, bits=(4, 2), images=8, batch_size=8, step_images=2)


class TestOneAtATimeOptions(OptionCases):
    owner = OneAtATime
    options = fields_of(OneAtATime)
    rows = (
        seen.bits_row(SMALL),
        seen.images_row(SMALL, calls=1 + 2 * 4),  # the float network, and four options of two layers
        OptionRow(
            "measure",
            ("loss", "kl"),
            seen=lambda value: seen.search(SMALL(measure=value, images=12)).settings["base_loss"],
            holds=lambda a, b: (
                (a, b)
                == (
                    pytest.approx(seen.float_loss({}, *seen.labelled(), step_images=2)),
                    pytest.approx(0, abs=1e-12),
                )
            ),
            says="loss of the float network",
        ),
        seen.batch_size_row(SMALL),
        seen.cache_row(SMALL),
        seen.per_channel_row(SMALL),
        seen.rule_row(SMALL, "rule", "weight", of=2),
        seen.rule_row(SMALL, "rule", "activation", of=2),
        seen.step_images_row(SMALL, "step_images"),
        seen.first_last_row(SMALL),
        seen.seed_row(SMALL, images_used=2),
    )


def test_defaults_are_those_that_are_documented() -> None:
    assert OneAtATime() == OneAtATime(
        bits=(8, 6, 5, 4, 3, 2),
        images=1024,
        measure="loss",
        batch_size=128,
        cache_mib=1024,
        per_channel=True,
        rule="mse",
        step_images=32,
        first_last=False,
        seed=0,
    )
