"""The stopping rule of a training with KURE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixbit.data import Split, TensorSplit
from mixbit.errors import MixbitError, TrainingDiverged
from mixbit.evaluation import Metrics
from mixbit.metric import average
from mixbit.policy import Policy
from mixbit.task import Task, objective_of
from mixbit.training import KurtosisConfig, KurtosisMonitor, KurtosisPenalty, TrainConfig, monitored, regularised, train
from tests.tasks import tiny_task

QUICK = TrainConfig(epochs=40, batch_size=32, lr=0.005, bn_samples=0, augment=False, validate_every=0)


def wide_task() -> Task:
    """A layer with enough weights for its kurtosis to be moved."""
    torch.manual_seed(0)
    body = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 32, 3), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*body, nn.Linear(128, 3))
    with torch.no_grad():
        model[2].weight.normal_(0, 0.1)  # type: ignore[union-attr,operator]
    return replace(tiny_task(), model=model, network=None)  # type: ignore[arg-type]


def monitor(task: Task, folder: Path | None, **settings: Any) -> tuple[KurtosisPenalty, KurtosisMonitor]:
    penalty = KurtosisPenalty(task, KurtosisConfig(stop=True, **settings))
    other = tiny_task().test
    assert isinstance(other, TensorSplit)
    other.labels = other.labels.roll(1)  # what is learned does not carry over, so the loss soon stops falling
    return penalty, KurtosisMonitor(penalty, other, 0.0, folder)


def test_ends_when_the_kurtosis_has_arrived_and_the_loss_rests(tmp_path: Path) -> None:
    task = wide_task()
    penalty, watch = monitor(task, tmp_path, gap=0.2, patience=1, gap_epochs=2)
    history = train(
        task.model, task.train, task.test, QUICK, run=tmp_path, penalty=penalty, monitor=watch, quiet=True
    ).history
    assert 3 <= len(history) < QUICK.epochs
    assert all(record["kurtosis"]["gap"] < 0.2 for record in history[-2:])
    losses = [record["held_out"]["loss"] for record in history]
    assert losses[-1] >= min(losses[:-1])
    assert history[-1]["ended"] and "test" in history[-1]


def test_the_best_epoch_is_kept_and_a_broken_run_ends_alike(tmp_path: Path) -> None:
    def run(folder: Path, epochs: int) -> tuple[dict[str, torch.Tensor], str]:
        task = wide_task()
        penalty, watch = monitor(task, folder, gap=1e-6)
        config = replace(QUICK, epochs=epochs)
        train(task.model, task.train, task.test, config, run=folder, penalty=penalty, monitor=watch, quiet=True)
        return dict(task.model.state_dict()), watch.kept

    whole, kept = run(tmp_path / "whole", 6)
    assert kept.startswith("epoch ") and kept.endswith("nearest to the target")
    task = wide_task()
    penalty, watch = monitor(task, tmp_path / "broken", gap=1e-6)

    def interrupt(model: nn.Module, epoch: float) -> torch.Tensor:
        if epoch >= 3.5:
            raise KeyboardInterrupt
        return penalty(model, epoch)

    config = replace(QUICK, epochs=6, checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(
            task.model, task.train, task.test, config, run=tmp_path / "broken", penalty=interrupt, monitor=watch,
            quiet=True,
        )  # fmt: skip
    again, kept_again = run(tmp_path / "broken", 6)
    assert kept_again == kept
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_weights_that_run_away_end_the_training() -> None:
    """The term has no scale, so a high rate with momentum blows the weights up while the loss looks well."""
    task = wide_task()
    penalty, watch = monitor(task, None)
    with pytest.raises(TrainingDiverged, match=r"layer '2' diverged: its standard deviation went from 0\.0974"):
        train(task.model, task.train, None, replace(QUICK, lr=0.2), penalty=penalty, monitor=watch, quiet=True)


def test_no_epoch_accurate_enough_is_said() -> None:
    task = wide_task()
    penalty = KurtosisPenalty(task, KurtosisConfig(stop=True, max_drop=0.0))
    watch = KurtosisMonitor(penalty, task.test, 1.1, None)  # no accuracy reaches 110 %
    train(task.model, task.train, None, replace(QUICK, epochs=2), penalty=penalty, monitor=watch, quiet=True)
    assert watch.kept == "the last epoch: in every one the accuracy was more than 0.0% below the start"


def test_without_the_rule_it_only_records() -> None:
    task = wide_task()
    penalty = KurtosisPenalty(task)
    watch = KurtosisMonitor(penalty, None, 0.0, None)
    result = train(task.model, task.train, None, replace(QUICK, epochs=2), penalty=penalty, monitor=watch, quiet=True)
    assert len(result.history) == 2 and "ended" not in result.history[-1]
    assert result.history[1]["kurtosis"]["gap"] < result.history[0]["kurtosis"]["gap"]
    assert set(result.history[0]["kurtosis"]) == {"mean", "gap", "peak"}


def test_the_epoch_that_is_kept_is_one_of_the_average() -> None:
    """With `ema` the rule judges the moving average and keeps it, not the weights behind it."""

    def run(ema: float | None) -> torch.Tensor:
        task = wide_task()
        penalty, watch = monitor(task, None)
        config = replace(QUICK, epochs=2, ema=ema)
        train(task.model, task.train, None, config, penalty=penalty, monitor=watch, quiet=True)
        assert "nearest to the target" in watch.kept
        return task.model[2].weight.detach().clone()  # type: ignore[index, union-attr, operator]

    assert not torch.equal(run(None), run(0.9))


@pytest.mark.parametrize(
    ("losses", "gaps", "last"),
    [
        ((3, 2, 4, 4, 4), (0, 0, 0, 0, 0), 4),  # after three epochs the lowest is among the last two
        ((3, 2, 1, 0, 0), (0, 0, 0, 0, 0), None),
        ((3, 2, 4, 4, 4, 4), (0, 0, 0, 1, 0, 0), 6),
        ((4, 4, 4, 4), (1, 1, 1, 0), None),
    ],
)
def test_the_rule_asks_the_last_epochs_of_its_settings(
    losses: tuple[int, ...], gaps: tuple[int, ...], last: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two epochs: the distance from the target is small, and no loss is below the lowest before."""
    task, at = wide_task(), 0
    penalty = KurtosisPenalty(task, KurtosisConfig(stop=True, gap=0.1, gap_epochs=2, patience=2))
    monkeypatch.setattr(penalty, "record", lambda _model: {"gap": float(gaps[at])})
    objective = objective_of(lambda _outputs, _targets: float(losses[at]))
    watch = KurtosisMonitor(penalty, task.test, 0.0, None, objective.settled(torch.zeros(1, dtype=torch.long)))
    history: list[dict[str, Any]] = []
    ended = []
    for at in range(len(losses)):
        record: dict[str, Any] = {"epoch": at + 1}
        ended.append(watch.after_epoch(task.model, record, history))
        history.append(record)
    assert ended.index(True) + 1 == last if last else not any(ended)


@pytest.mark.parametrize(("larger", "kept"), [(True, 2), (False, 1)])
def test_what_must_not_drop_is_the_tasks_metric_in_its_direction(larger: bool, kept: int) -> None:
    """Epoch 1 has the metric at 0.2, epoch 2 at 0.8, and the start was 0.5; the nearest to the target is not asked."""
    task = wide_task()
    penalty = KurtosisPenalty(task, KurtosisConfig(stop=True, max_drop=0.01))
    values = iter([0.2, 0.8])
    value = next(values)

    def measured(_outputs: Any, _targets: Any) -> float:
        return value

    objective = objective_of(metric=average(measured, larger_is_better=larger, name="made up"))
    watch = KurtosisMonitor(penalty, task.test, 0.5, None, objective)
    history: list[dict[str, Any]] = []
    for epoch in (1, 2):
        record: dict[str, Any] = {"epoch": epoch}
        watch.after_epoch(task.model, record, history)
        history.append(record)
        value = next(values, value)
    assert [one["held_out"]["made up"] for one in history] == [0.2, 0.8]
    watch.at_end(task.model)
    assert watch.kept == f"epoch {kept}, nearest to the target"
    strict = KurtosisMonitor(penalty, task.test, 0.9 if larger else 0.1, None, objective)
    strict.after_epoch(task.model, {"epoch": 1}, [])
    strict.at_end(task.model)
    assert "the made up was more than 0.01 " + ("below" if larger else "above") in strict.kept


def epochs_until_the_end(
    gaps: list[float], losses: list[float], values: list[float] | None = None, **settings: Any
) -> tuple[int | None, str]:
    """Epoch at which the rule ends a training with these gaps, held-out losses and metrics (start: 0.5), and what it
    then keeps."""
    told = iter(zip(gaps, losses, values or [0.5] * len(gaps), strict=True))
    config = KurtosisConfig(stop=True, **settings)
    current: dict[str, float] = {}
    penalty = SimpleNamespace(
        config=config, check_growth=lambda model: None, record=lambda model: {"gap": current["gap"]}
    )
    watch = KurtosisMonitor(penalty, object(), 0.5, None)  # type: ignore[arg-type]
    model, history = nn.Linear(1, 1), []
    ended = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mixbit.training.stopping.evaluate",
            lambda *_, **__: Metrics(values={"accuracy": current["value"]}, loss=current["loss"], samples=4),
        )
        for epoch, (gap, loss, value) in enumerate(told, start=1):
            current.update(gap=gap, loss=loss, value=value)
            with torch.no_grad():
                model.weight.fill_(epoch)
            record: dict[str, Any] = {"epoch": epoch}
            if watch.after_epoch(model, record, history):
                ended = epoch
                break
            history.append(record)
    watch.at_end(model)
    assert watch.kept.startswith("the last epoch") or watch.kept.startswith(f"epoch {int(model.weight.item())},")
    return ended, watch.kept


RESTING = [1.0, 0.9, 0.8] + [0.8] * 9
"""Held-out losses that stop falling after the third epoch."""


@pytest.mark.parametrize(
    ("settings", "gaps", "losses", "ended"),
    [
        ({}, [0.04] * 12, RESTING, 6),  # three epochs after the third without a lower loss
        ({"patience": 1}, [0.04] * 12, RESTING, 4),
        ({"patience": 5}, [0.04] * 12, RESTING, 8),
        ({}, [0.04] * 12, [1 - epoch / 100 for epoch in range(12)], None),  # it still falls
        ({}, [0.06] * 12, RESTING, None),
        ({"gap": 0.07}, [0.06] * 12, RESTING, 6),
        ({"gap": 0.06}, [0.06] * 12, RESTING, None),  # below, not at
        ({}, [0.06] * 7 + [0.04] * 5, RESTING, 9),  # two in a row
        ({"gap_epochs": 4}, [0.06] * 7 + [0.04] * 5, RESTING, 11),
        ({"gap_epochs": 1}, [0.06] * 7 + [0.04] * 5, RESTING, 8),
        ({}, [0.06, 0.04] * 6, RESTING, None),  # never two in a row
        ({"patience": 1, "gap_epochs": 1}, [0.04] * 2, [1.0, 1.0], 2),  # never at the first epoch
    ],
)
def test_every_number_of_the_rule_counts(
    settings: dict[str, Any], gaps: list[float], losses: list[float], ended: int | None
) -> None:
    assert epochs_until_the_end(gaps, losses, **settings)[0] == ended


@pytest.mark.parametrize(
    ("max_drop", "kept"),
    [(0.005, "epoch 2"), (0.02, "epoch 3"), (0.5, "epoch 4"), (0.0, "epoch 1")],
)
def test_the_nearest_epoch_that_dropped_little_enough_is_kept(max_drop: float, kept: str) -> None:
    """Nearer to the target epoch by epoch, at 0, 0.004, 0.015 and 0.2 below the start."""
    found = epochs_until_the_end([0.4, 0.3, 0.2, 0.1], [1.0] * 4, [0.5, 0.496, 0.485, 0.3], max_drop=max_drop)
    assert found[1] == f"{kept}, nearest to the target"


# ------------------------------------------------------------------------- from settings to a monitored training


def test_the_term_is_in_the_loss_where_it_was_asked_for() -> None:
    task = tiny_task()
    assert regularised(task, None) is task
    found = regularised(task, KurtosisConfig(weight=0.5))
    assert isinstance(found.penalty, KurtosisPenalty) and found.penalty.config == KurtosisConfig(weight=0.5)
    by_bits = regularised(task, KurtosisConfig(by_bits=True), Policy.uniform(task.network, 3, 4))
    assert isinstance(by_bits.penalty, KurtosisPenalty)  # which it cannot be without the bits
    with pytest.raises(MixbitError, match="by_bits"):
        regularised(task, KurtosisConfig(by_bits=True))
    assert monitored(task, KurtosisConfig(stop=True), Path("r"), 0) == (task, None)  # there is no term to watch


def pixels(split: Split) -> Tensor:
    """All images, in an order of their own content."""
    rows = next(split.batches(len(split)))[0].flatten(1)
    return rows[torch.argsort((rows * torch.arange(1, rows.shape[1] + 1)).sum(1))]


def judged(task: Task, held_out: Split) -> float:
    """Accuracy, by PyTorch alone."""
    x, y = next(held_out.batches(len(held_out)))
    with torch.no_grad():
        return float((task.model.eval()(x).argmax(1) == y).float().mean())


def test_the_stopping_rule_holds_out_what_is_then_not_trained_on(tmp_path: Path) -> None:
    config = KurtosisConfig(stop=True, held_out=0.25)
    task = regularised(tiny_task(), config)
    left, monitor = monitored(task, config, tmp_path, 3)
    assert monitor is not None and monitor.held_out is not None
    assert (len(left.train), len(monitor.held_out)) == (48, 16)
    parts = torch.cat([pixels(left.train), pixels(monitor.held_out)])
    assert torch.equal(parts.sort(0).values, pixels(task.train).sort(0).values), "one of the images is lost or doubled"
    assert left.test is task.test and left.penalty is task.penalty and monitor.penalty is task.penalty
    assert monitor.path == tmp_path / "best.safetensors" or monitor.path.parent == tmp_path  # type: ignore[union-attr]
    assert monitor.start == pytest.approx(judged(task, monitor.held_out)) and monitor.start > 0
    assert monitor.objective is task.objective
    again, other = (monitored(task, config, tmp_path, seed)[1] for seed in (3, 4))
    assert again is not None and again.held_out is not None and other is not None and other.held_out is not None
    assert torch.equal(pixels(again.held_out), pixels(monitor.held_out))
    assert not torch.equal(pixels(other.held_out), pixels(monitor.held_out))


def test_without_a_rule_all_images_are_trained_on(tmp_path: Path) -> None:
    config = KurtosisConfig()
    task = regularised(tiny_task(), config)
    same, monitor = monitored(task, config, tmp_path, 0)
    assert same is task and monitor is not None and monitor.held_out is None and monitor.penalty is task.penalty
