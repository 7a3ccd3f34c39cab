"""A training that begins from the network of another one: its weights, bits and steps, and not its float weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixbit import runs
from mixbit.cost import LayerBits
from mixbit.errors import MixbitError, StaleRun
from mixbit.models import write_weights
from mixbit.policy import Policy
from mixbit.runs import Subject
from mixbit.runs._start import start_at
from tests.cli import tiny

SHORT: dict[str, Any] = {"epochs": 1, "fraction": 0.05, "batch_size": 32}
STILL = {**SHORT, "lr": 1e-12, "weight_decay": 0.0, "bn_samples": 0}
"""A training that moves nothing: what it ends with is what it began with."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Float weights, a float run that began with them, and a run under a policy."""
    place = tmp_path_factory.mktemp("starts")
    write_weights(place / "float.safetensors", tiny.task().model.state_dict())
    subject = replace(tiny.subject(), weights=place / "float.safetensors", seed=2)
    policy = Policy.uniform(tiny.task().network, 4, 4)
    runs.train(subject, policy, {**SHORT, "lr": 0.1, "quantize": {"per_channel": False}}, place / "q", quiet=True)
    runs.train(subject, None, {**SHORT, "lr": 0.1}, place / "f", quiet=True)
    return place


def state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_it_begins_with_the_weights_and_steps_that_were_trained(folder: Path, tmp_path: Path) -> None:
    done = runs.train(Subject(model=str(folder / "q")), None, STILL, tmp_path / "r", quiet=True)
    old, new = state(folder / "q"), state(tmp_path / "r")
    assert old.keys() == new.keys()
    assert all(torch.allclose(old[name].float(), new[name].float(), atol=1e-6) for name in old)
    assert done.quantized and done.began == folder / "float.safetensors"
    assert Policy.load(tmp_path / "r" / "policy.json").layers == Policy.load(folder / "q" / "policy.json").layers
    there, here = runs.evaluate(str(folder / "q")), runs.evaluate(str(tmp_path / "r"))
    assert here.metrics.loss == pytest.approx(there.metrics.loss, rel=1e-5)


def test_a_float_run_is_its_weights_and_takes_a_policy(folder: Path, tmp_path: Path) -> None:
    policy = Policy.uniform(tiny.task().network, 4, 4)
    named = replace(tiny.subject(), weights=folder / "f" / "model.safetensors")
    for begin, run in ((Subject(model=str(folder / "f")), tmp_path / "a"), (named, tmp_path / "b")):
        done = runs.train(begin, policy, SHORT, run, quiet=True)
        assert done.began == folder / "f" / "model.safetensors"
    one, two = state(tmp_path / "a"), state(tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_how_it_was_quantized_and_its_batches_stay_and_the_rest_is_new(folder: Path) -> None:
    found = start_at(Subject(model=str(folder / "q"), seed=7), None, {"epochs": 3})
    assert found.settings == {"quantize": {"per_channel": False}, "batch_size": 32, "epochs": 3}
    assert found.subject == replace(tiny.subject(), weights=folder / "float.safetensors", seed=7)
    other = start_at(Subject(model=str(folder / "q"), data="digits?seed=1"), None, {"batch_size": 16})
    assert other.subject.data == "digits?seed=1" and other.settings["batch_size"] == 16


def test_a_killed_one_is_known_by_what_it_began_with(folder: Path, tmp_path: Path) -> None:
    """The same network from elsewhere goes on; other weights under the same name are refused."""
    begun = tmp_path / "begun"
    begun.mkdir()
    for file in ("config.json", "policy.json", "model.safetensors"):
        (begun / file).write_bytes((folder / "q" / file).read_bytes())
    runs.train(Subject(model=str(begun)), None, STILL, tmp_path / "r", quiet=True)
    runs.train(Subject(model=str(folder / "q"), seed=0), None, STILL, tmp_path / "r", quiet=True)
    moved = {name: tensor + 1 if name == "head.bias" else tensor for name, tensor in state(begun).items()}
    write_weights(begun / "model.safetensors", moved)
    with pytest.raises(StaleRun, match="begun with start="):
        runs.train(Subject(model=str(begun)), None, STILL, tmp_path / "r", quiet=True)


@pytest.mark.parametrize(
    ("more", "policy", "settings", "told"),
    [
        ({"weights": Path("w.pth")}, None, {}, "brings its own weights: leave --weights out"),
        ({}, (2, 2), {}, "bits of its own, which its steps are for: leave --policy out"),
        ({}, None, {"quantize": {"per_channel": True}}, "quantized as it was trained, by {'per_channel': False}"),
    ],
)
def test_what_cannot_begin(
    folder: Path, tmp_path: Path, more: dict[str, Any], policy: Any, settings: dict[str, Any], told: str
) -> None:
    bits = policy and Policy.uniform(tiny.task().network, *policy)
    with pytest.raises(MixbitError, match=told):
        runs.train(Subject(model=str(folder / "q"), **more), bits, {**SHORT, **settings}, tmp_path / "o", quiet=True)
    assert not (tmp_path / "o").exists()


def test_the_same_bits_named_again_are_no_others(folder: Path) -> None:
    bits = Policy.load(folder / "q" / "policy.json")
    assert bits.layers["left"] == LayerBits(4, 4)
    assert start_at(Subject(model=str(folder / "q")), bits, {}).policy == bits
