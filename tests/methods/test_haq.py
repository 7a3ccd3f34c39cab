"""HAQ: rewards by the metric of networks that are quantized by hand, under hard limits, and what its options change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from mixbit.cost import Budget
from mixbit.errors import DataError, MixbitError, StaleRun
from mixbit.methods import Haq, PolicyMethod, _tuning, haq, read_episodes
from mixbit.metric import average
from mixbit.policy import Policy
from mixbit.quantization import calibrate, quantize
from mixbit.sensitivity import judging
from mixbit.sensitivity.judging import Judge, bits_of
from mixbit.task import Task
from mixbit.testing.methods import PolicyMethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import episodic, seen
from tests.methods.episodic import BUDGET, WIDE, records
from tests.tasks import tiny_task


def short(**more: Any) -> Haq:
    given = {"episodes": 5, "warmup": 2, "images": 6, "calibration_images": 4, "batch_size": 4, **more}
    return Haq(**given)


class TestContract(PolicyMethodCases):
    def method(self, seed: int) -> PolicyMethod:
        return Haq(episodes=5, warmup=3, images=32, calibration_images=16, seed=seed)

    def task(self) -> Task:
        return tiny_task()


class TestContractOfProjections(TestContract):
    def method(self, seed: int) -> PolicyMethod:
        return Haq(episodes=5, warmup=3, images=32, calibration_images=16, seed=seed, within="project", share_bits=True)


def accuracy(policy: Policy | None, x: torch.Tensor, y: torch.Tensor) -> float:
    """On the last six images, after calibration on the first four, by PyTorch's own functions; in float without one."""
    model = copy.deepcopy(seen.small_task().model)
    if policy is not None:
        quantize(model, policy, seen.small_task().network)
        calibrate(model, [x[:4]], seed=0)
    with torch.no_grad():
        return float((model.eval()(x[4:10]).argmax(1) == y[4:10]).float().mean())


def test_rewards_are_points_of_the_metric_on_images_that_calibration_did_not_see(tmp_path: Path) -> None:
    task = seen.small_task()
    x, y = seen.labelled(seed=0)
    found = short(episodes=8).search(task, BUDGET, run=tmp_path, quiet=True)
    rows = read_episodes(tmp_path / "haq-episodes.jsonl")
    base = accuracy(None, x, y)
    for row in rows:
        policy = Policy(fingerprint=task.network.fingerprint, layers=bits_of(row.bits, task.network))
        mine = accuracy(policy, x, y)
        assert row.quality["accuracy"] == pytest.approx(mine)
        assert row.reward == pytest.approx(0.1 * 100 * (mine - base))
    assert found.method == "haq" and found.allocation["objective"] == max(row.reward for row in rows)
    assert f"{100 * base:.2f} % in float, on 6 training images, after calibration on 4 others" in found.notes[1]


def test_a_reward_is_a_tenth_for_each_point_of_accuracy() -> None:
    judging = haq._Judging(seen.small_task(), short())
    assert judging.reward({"accuracy": judging.floats + 0.25}) == pytest.approx(2.5)
    assert judging.reward({"accuracy": judging.floats - 0.01}) == pytest.approx(-0.1)


def first_output(*, better: bool) -> Task:
    """The small task, judged by the mean of the first output."""
    task = seen.small_task()
    metric = average(lambda outputs, targets: outputs[:, 0].mean(), name="first", larger_is_better=better)
    return Task(model=task.model, train=task.train, test=task.test, network=task.network, metric=metric)


@pytest.mark.parametrize("better", [True, False])
def test_a_metric_of_any_unit_and_direction(better: bool) -> None:
    task = first_output(better=better)
    with torch.no_grad():
        base = float(task.model.eval()(seen.images(0)[4:10])[:, 0].mean())
    rows = records(short(scale=1.0), task, "haq")
    assert len({row.reward for row in rows}) > 1
    for row in rows:
        gain = row.quality["first"] - base
        assert row.reward == pytest.approx(gain if better else -gain, abs=1e-5)


def test_a_metric_without_a_direction_is_refused() -> None:
    task = seen.small_task()
    metric = average(lambda outputs, targets: outputs.sum(), name="odd", larger_is_better=None)
    odd = Task(model=task.model, train=task.train, test=task.test, network=task.network, metric=metric)
    with pytest.raises(MixbitError, match="'odd' are to be compared"):
        short().search(odd, BUDGET, quiet=True)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(MixbitError, match="episodes=20 would all be drawn evenly"):
        Haq(episodes=20)
    with pytest.raises(MixbitError, match="none twice"):
        Haq(bits=(4, 4))


# ------------------------------------------------------------------------------------------------------- training


def test_policies_are_trained_on_images_that_judge_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a third of the images at most, and never on those that are measured; the float network stays as it is."""
    task, trained, judged = tiny_task(), set[bytes](), set[bytes]()
    train, evaluate = _tuning.train, judging.evaluate
    before = copy.deepcopy(task.model.state_dict())

    def noting(model: Any, rest: Any, test: Any, config: Any, **how: Any) -> Any:
        trained.update(one.numpy().tobytes() for x, _ in rest.batches(8) for one in x)
        assert (config.momentum, config.weight_decay, config.epochs, config.lr) == (0.9, 4e-5, 1, 0.05)
        assert test is None and how["loss"] is task.objective
        return train(model, rest, test, config, **how)

    def looking(model: Any, batches: Any, **how: Any) -> Any:
        judged.update(one.numpy().tobytes() for x, _ in batches for one in x)
        return evaluate(model, batches, **how)

    monkeypatch.setattr(_tuning, "train", noting)
    monkeypatch.setattr(judging, "evaluate", looking)
    given = {"epochs": 1, "lr": 0.05, "images": 12, "calibration_images": 8, "batch_size": 8, "episodes": 3}
    policy = short(**given).search(task, WIDE, quiet=True)
    assert len(trained) == 44 and len(judged) == 12 and not trained & judged
    assert "and 1 epochs of training" in policy.notes[1]
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_training_moves_rewards() -> None:
    task = tiny_task()
    given = {"images": 16, "calibration_images": 8, "batch_size": 8, "bits": (4, 3)}
    still, moved = (records(short(**given, epochs=epochs, lr=0.1), task, "haq") for epochs in (0, 1))
    assert [row.actions for row in still[:2]] == [row.actions for row in moved[:2]]
    assert [row.quality["loss"] for row in still] != [row.quality["loss"] for row in moved]


def test_too_few_images_to_train_on() -> None:
    with pytest.raises(MixbitError, match="batch_size=64 is larger than what is left to train on: 44 images"):
        short(epochs=1, images=12, calibration_images=8, batch_size=64).search(tiny_task(), WIDE, quiet=True)
    task = seen.small_task()
    batches = [next(task.train.batches(12))]
    loose = Task(model=task.model, train=batches, test=task.test, network=task.network)
    with pytest.raises(DataError, match="Cannot hold samples out"):
        short(epochs=1, batch_size=2).search(loose, WIDE, quiet=True)


# ------------------------------------------------------------------------------------------------------- the folder


def test_a_killed_search_goes_on_and_measurements_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = short().search(seen.small_task(), BUDGET, quiet=True)
    call, calls = Judge.__call__, list[Policy]()

    def killed(self: Judge, policy: Policy) -> Any:
        calls.append(policy)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(self, policy)

    monkeypatch.setattr(Judge, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        short().search(seen.small_task(), BUDGET, run=tmp_path, quiet=True)
    assert short().search(seen.small_task(), BUDGET, run=tmp_path, quiet=True) == whole
    assert len(calls) == 1 + whole.allocation["evaluations"]
    assert {path.name for path in tmp_path.iterdir()} == {"haq.jsonl", "haq-episodes.jsonl", "haq-agent.safetensors"}
    with pytest.raises(StaleRun, match="images=6, now images=7"):
        short(images=7).search(seen.small_task(), BUDGET, run=tmp_path, quiet=True)


# --------------------------------------------------------------------------------------------------------- options


def calls(**settings: Any) -> list[int]:
    """Images of each call of the loss, of a policy and of the float network."""
    return seen.loss_calls(_Under(short(episodes=3, **settings)))  # type: ignore[arg-type]


class _Under:
    """A method with its budget, for what asks for scores."""

    def __init__(self, method: Haq) -> None:
        self.method = method

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Policy:
        return self.method.search(task, Budget.parse(["bitops=2x2"]), run=run, quiet=quiet)  # one policy


def calibrated(**settings: Any) -> set[int]:
    """How many images set the steps."""
    found: set[int] = set()
    calibrate = judging.calibrate

    def note(model: Any, batches: Any, *given: Any, **named: Any) -> None:
        found.update(len(batch) for batch in batches)
        calibrate(model, batches, *given, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(judging, "calibrate", note)
        short(**settings).search(seen.small_task(), BUDGET, quiet=True)
    return found


def rewards(**settings: Any) -> list[float]:
    return [row.reward for row in records(short(**settings), first_output(better=True), "haq", BUDGET)]


class TestHaqOptions(OptionCases):
    owner = Haq
    options = fields_of(Haq)
    elsewhere = episodic.ELSEWHERE
    rows = (
        *episodic.rows(short, seen.small_task, "haq"),
        OptionRow("scale", (0.1, 0.2), lambda v: rewards(scale=v, episodes=3)[:2],
                  lambda a, b: any(a) and b == pytest.approx([2 * one for one in a])),
        OptionRow("images", (3, 6), lambda v: sum(calls(images=v)), lambda a, b: (a, b) == (2 * 3, 2 * 6)),
        OptionRow("calibration_images", (2, 5), lambda v: calibrated(calibration_images=v),
                  lambda a, b: (a, b) == ({2}, {5})),
        OptionRow("batch_size", (4, 2), lambda v: max(calls(batch_size=v)), lambda a, b: (a, b) == (4, 2)),
    )  # fmt: skip


def test_defaults_are_those_that_are_documented() -> None:
    assert Haq() == Haq(
        bits=(8, 7, 6, 5, 4, 3, 2), episodes=120, warmup=20, noise_decay=None, action_map="floor", share_bits=False,
        within="wall", fill=False, scale=0.1, images=1024, calibration_images=256, epochs=0, train_images=20_000,
        lr=1e-3, batch_size=256, seed=0,
    )  # fmt: skip
