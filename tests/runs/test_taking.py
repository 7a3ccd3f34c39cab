"""A sub-network of a front becomes a run folder that the other commands take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from mixbit import _io, runs
from mixbit.errors import MixbitError, StaleRun
from mixbit.policy import Policy
from mixbit.runs import taking
from tests.runs.conftest import DIGITS

SETTINGS = {"bits": [8, 4, 2], "epochs": 1, "fraction": 0.2, "passes": 2, "batch_size": 32, "population": 4,
            "generations": 1, "statistics_images": 64, "calibration_images": 32, "per_channel": False}  # fmt: skip


@pytest.fixture(scope="module")
def supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "supernet"
    runs.search(DIGITS, "qfa", SETTINGS, folder, quiet=True)
    return folder


def test_what_was_picked_is_evaluated_exported_and_not_trained(supernet: Path, tmp_path: Path) -> None:
    picked = runs.pick(supernet, ["bitops=8x8"], by="loss")
    files = runs.take(picked, tmp_path / "taken")
    assert sorted(path.name for path in files) == ["model.safetensors", "policy.json"]
    assert picked.policy is not None and Policy.load(tmp_path / "taken" / "policy.json").layers == picked.policy.layers
    found = runs.evaluate(str(tmp_path / "taken"))
    assert found.outcome.costs.bitops == picked.costs.bitops  # type: ignore[union-attr]
    point = next(one for one in picked.front.points if one.layers == picked.policy.layers)
    assert found.metrics.loss == pytest.approx(point.quality["loss"], rel=0.3), "test images, and those that judged"
    exported = runs.export(tmp_path / "taken", images=40, compare_float=False)
    assert exported.verification is not None and exported.verification.right
    again = runs.take(picked, tmp_path / "taken")
    assert again == files
    other = runs.pick(supernet, ["bitops=2x2"], by="loss")
    with pytest.raises(StaleRun):
        runs.take(other, tmp_path / "taken")


def test_what_comes_after_knows_how_it_was_made(
    supernet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metric, its statistics, how its layers are quantized, and the float weights where they are still there."""
    picked = runs.pick(supernet, ["bitops=8x8"], by="loss")
    subject, there = picked.subject, tmp_path / "float"
    assert picked.policy is not None and subject is not None
    there.write_bytes(b"1")
    monkeypatch.setattr(taking, "subnet", lambda *_: nn.Linear(1, 1))
    monkeypatch.setattr(taking, "metric_facts", lambda _: {"metric": "own"})
    for weights, digest in ((None, None), (tmp_path / "gone", None), (there, _io.digest(there))):
        run = tmp_path / f"run {weights and weights.name}"
        runs.take(replace(picked, subject=replace(subject, weights=weights)), run)
        config = json.loads((run / "config.json").read_text())
        assert config["content"]["weights"] == digest and config["metric"] == "own"
        assert config["settings"] == {"quantize": {"per_channel": False}, "batch_size": 32, "bn_samples": 64}
        layers = picked.policy.layers.items()
        assert config["bits"] == {name: [one.weight_bits, one.activation_bits] for name, one in layers}


def test_nothing_picked_and_other_fronts(supernet: Path, tmp_path: Path) -> None:
    with pytest.raises(MixbitError, match="nothing was picked. Give a budget"):
        runs.take(runs.pick(supernet), tmp_path / "none")
    runs.search(
        DIGITS, "uniform-front", {"images": 16, "calibration_images": 16, "bits": [8, 4]}, tmp_path / "u", quiet=True
    )
    with pytest.raises(MixbitError, match="the front is of 'uniform-front'.*Write the policy"):
        runs.take(runs.pick(tmp_path / "u", ["bitops=8x8"]), tmp_path / "none")
    assert not (tmp_path / "none").exists()
