"""A finished training, opened again, is the network that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mixbit.errors import MixbitError
from mixbit.evaluation import reestimate_batch_norm, statistics_of
from mixbit.policy import Policy
from mixbit.quantization import QuantizeConfig, fold_residuals, put_policy_on, quantized_layers
from mixbit.runs import _folder, training
from mixbit.runs._trained import open_run
from tests.cli import tiny


def test_a_run_is_opened_with_the_quantizers_that_its_settings_say(tmp_path: Path) -> None:
    """One step for a whole layer: the numbers are those of what was saved."""
    own, config = tiny.subject().task()[0], QuantizeConfig(per_channel=False)
    policy = Policy.load(tiny.policy()).check(own.network)
    put_policy_on(own.model, policy, own, seed=0, config=config)
    bits = {name: [one.weight_bits, one.activation_bits] for name, one in policy.layers.items()}
    settings = {"quantize": {"per_channel": False}}
    _folder.begin(tmp_path, {"command": "train", **tiny.subject().facts(), "settings": settings, "bits": bits})
    training._write(tmp_path, own.model, own, policy)
    found = open_run(tmp_path)
    steps = {name: one.weight_quantizer.steps.numel() for name, one in quantized_layers(found.task.model).items()}
    assert set(steps.values()) == {1} and found.policy == policy and found.path == tmp_path / "policy.json"
    x = next(own.test.batches(8))[0]
    with torch.no_grad():
        assert torch.equal(found.task.model.eval()(x), own.model.eval()(x))


def test_folding_takes_the_training_s_own_samples_whatever_the_data(tmp_path: Path) -> None:
    own = tiny.ranged_run(tmp_path)
    plain, other = open_run(tmp_path), open_run(tmp_path, data="digits?seed=1", seed=4)
    moved = plain.fold()
    assert moved == other.fold() and moved and plain.fold() == {}
    assert list(moved.values()) == pytest.approx([0.4] * len(moved), abs=1e-4)
    fold_residuals(own.model)
    first = [x for (x, _), _ in zip(own.train.batches(32, shuffle=True, seed=0), range(2), strict=False)]
    reestimate_batch_norm(own.model, first)
    wanted = statistics_of(own.model)
    for found in (plain, other):
        given = statistics_of(found.task.model)
        assert all(torch.allclose(given[name], one, rtol=1e-4, atol=1e-6) for name, one in wanted.items())


def test_data_and_seed_are_the_runs_own_or_others() -> None:
    plain = open_run(tiny.float_run())
    assert (plain.subject.data, plain.subject.seed, plain.policy, plain.path) == ("digits", 0, None, None)
    assert plain.subject.weights == tiny.float_run() / "model.safetensors"
    other = open_run(tiny.quantized_run(), data="digits?seed=1", seed=4)
    assert (other.subject.data, other.subject.seed, other.subject.weights) == ("digits?seed=1", 4, None)
    images, own = (next(one.task.test.batches(360))[0] for one in (other, plain))
    assert not torch.equal(images, own)


def test_only_a_finished_training_is_opened() -> None:
    with pytest.raises(MixbitError, match="holds no trained network"):
        open_run(tiny.scores())
