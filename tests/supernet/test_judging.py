"""A sub-network is measured with statistics of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.evaluation import evaluate, reestimate_batch_norm
from mixbit.quantization import quantized_layers
from mixbit.supernet import SubnetJudge, SupernetConfig, Uniform, build_supernet, judging, select, settle
from tests.supernet import nets


def judge(**settings: Any) -> SubnetJudge:
    task = nets.task()
    model = build_supernet(task, SupernetConfig(bits=(8, 4, 2), calibration_images=16, **settings))
    return SubnetJudge(model, [x for x, _ in task.train.batches(16)], task.test, task.objective, batch_size=8)


@pytest.mark.parametrize(("norms", "kind"), [("shared", "lsq"), ("bits", "lsq"), ("bits", "batchquant")])
def test_what_it_says_is_what_the_settled_network_gives(norms: str, kind: str) -> None:
    ours = judge(norms=norms, activations=kind)
    layers = {"left": LayerBits(4, 2), "right": LayerBits(8, 2)}
    found = ours(layers)
    task = nets.task()
    settings: Any = {"norms": norms, "activations": kind}
    other = build_supernet(task, SupernetConfig(bits=(8, 4, 2), calibration_images=16, **settings))
    select(other, layers)
    settle(other)
    reestimate_batch_norm(other, [x for x, _ in task.train.batches(16)])
    wanted = evaluate(other, task.test, loss=task.objective)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5) and found.accuracy == wanted.accuracy
    chosen = quantized_layers(ours.model)["left"]
    assert (chosen.weight_quantizer.selected, chosen.input_quantizer.selected) == (4, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["lsq", "batchquant"])
def test_statistics_are_made_once_for_the_same_bits_and_again_after_the_weights_changed(kind: str) -> None:
    """Of quantizers too: the last layer has one row, whose range follows from the bits before."""
    ours = judge(activations=kind)
    seen: list[int] = []
    real = judging.reestimate_batch_norm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "reestimate_batch_norm", lambda *a: (seen.append(1), real(*a)))
        first, second = ours(Uniform(4)), ours(Uniform(2))
        assert ours(Uniform(4)) == first and ours(Uniform(2)) == second and first.loss != second.loss
        assert len(seen) == 2
        with torch.no_grad():
            ours.model.left.weight.mul_(2.0)
        ours.forget()
        third = ours(Uniform(4))
    assert len(seen) == 3
    fresh = judge(activations=kind)
    with torch.no_grad():
        fresh.model.left.weight.mul_(2.0)
    assert third == fresh(Uniform(4)), "no statistics of the weights before"


def test_few_sub_networks_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_KEPT", 1)
    ours = judge()
    losses = [ours(Uniform(bits)).loss for bits in (4, 2, 4)]
    assert losses[0] == losses[2] and len(ours._known) == 1


def test_the_one_that_was_made_first_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_KEPT", 2)
    ours, seen, counts = judge(), list[int](), list[int]()
    real = judging.reestimate_batch_norm
    monkeypatch.setattr(judging, "reestimate_batch_norm", lambda *a: (seen.append(1), real(*a)))
    for bits in (4, 2, 8, 2, 8, 4):
        ours.recalibrate(Uniform(bits))
        counts.append(len(seen))
    assert counts == [1, 2, 3, 3, 3, 4]


@pytest.mark.parametrize(("precision", "half"), [("float32", False), ("bf16", True)])
def test_statistics_and_measures_are_taken_in_its_precision_and_batches(
    precision: Any, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def spy(name: str) -> None:
        real = getattr(judging, name)

        def called(*given: Any, **named: Any) -> Any:
            seen.append((name, torch.is_autocast_enabled("cpu"), named.get("batch_size")))
            return real(*given, **named)

        monkeypatch.setattr(judging, name, called)

    plain = judge()
    spy("reestimate_batch_norm")
    spy("evaluate")
    SubnetJudge(plain.model, plain.batches, plain.held_out, plain.objective, batch_size=8, precision=precision)(
        Uniform(4)
    )
    assert seen == [("reestimate_batch_norm", half, None), ("evaluate", half, 8)]


def test_no_batches() -> None:
    task = nets.task()
    model = build_supernet(task, SupernetConfig(bits=(4, 2)))
    with pytest.raises(MixbitError, match="no batches to make the norms' statistics from"):
        SubnetJudge(model, [], task.test, task.objective)


def test_bf16_is_near() -> None:
    plain = judge()
    ours = SubnetJudge(plain.model, plain.batches, plain.held_out, plain.objective, precision="bf16")
    assert ours(Uniform(8)).loss == pytest.approx(plain(Uniform(8)).loss, rel=0.05)
