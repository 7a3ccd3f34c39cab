"""The front of uniform networks: all that were asked for, measured as they are calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixbit.cost import Budget, LayerBits
from mixbit.errors import StaleRun
from mixbit.methods import FrontMethod, UniformFront
from mixbit.policy import Front, Policy
from mixbit.sensitivity import judging
from mixbit.sensitivity.judging import Judge
from mixbit.task import Task
from mixbit.testing.methods import FrontMethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task


def short(**more: Any) -> UniformFront:
    return UniformFront(**{"bits": (4, 2), "images": 6, "calibration_images": 4, "batch_size": 4, **more})


def front(**more: Any) -> Front:
    return short(**more).search(seen.small_task(), quiet=True)


class TestContract(FrontMethodCases):
    def method(self, seed: int) -> FrontMethod:
        return UniformFront(images=32, calibration_images=16, seed=seed)

    def task(self) -> Task:
        return tiny_task()


def test_every_point_is_a_uniform_network_as_it_is_judged() -> None:
    found, task = front(bits=(2, 8, 4)), seen.small_task()
    judge = Judge(task, images=6, calibration_images=4, batch_size=4, seed=0)
    assert [one.name for one in found.points] == ["W2A2", "W4A4", "W8A8"]
    for bits, point in zip((2, 4, 8), found.points, strict=True):
        policy = Policy.uniform(task.network, bits, bits)
        measured = judge(policy)
        assert point.layers == policy.layers and point.costs == policy.costs
        assert point.quality == {"accuracy": measured.accuracy, "loss": measured.loss}
    assert found.notes == ["pinned: stem W8A8, head W8A8"] and found.measured == judge.measured
    assert found.settings["bits"] == [2, 8, 4] and found.settings["pairs"] == "equal"


def test_uniform_bits_within_a_budget_are_what_is_picked() -> None:
    """More bits lose less here: at the BitOps of a uniform network nothing above it can be taken."""
    found, network = front(bits=(2, 4, 8)), seen.small_task().network
    for bits in (2, 4, 8):
        policy = found.pick(Budget.parse([f"bitops={bits}x{bits}"]), network, by="loss")
        taken = policy.layers["conv"].weight_bits
        assert taken is not None and taken <= bits


def test_a_killed_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call, done, whole = Judge.__call__, [], front()

    def killed(self: Judge, policy: Policy) -> Any:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(policy.method)
        return call(self, policy)

    with monkeypatch.context() as patched:
        patched.setattr(Judge, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            short().search(seen.small_task(), run=tmp_path, quiet=True)
        patched.setattr(Judge, "__call__", lambda self, policy: (done.append(policy.method), call(self, policy))[1])
        assert short().search(seen.small_task(), run=tmp_path, quiet=True) == whole
    assert done == ["uniform W2A2", "uniform W4A4"]
    with pytest.raises(StaleRun, match="seed=0, now seed=1"):
        short(seed=1).search(seen.small_task(), run=tmp_path, quiet=True)


def calibrated(count: int) -> set[int]:
    """How many images set the steps."""
    found: set[int] = set()
    calibrate = judging.calibrate

    def note(model: Any, batches: Any, *given: Any, **named: Any) -> None:
        found.update(len(batch) for batch in batches)
        calibrate(model, batches, *given, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(judging, "calibrate", note)
        front(calibration_images=count)
    return found


class TestUniformFrontOptions(OptionCases):
    owner = UniformFront
    options = fields_of(UniformFront)
    rows = (
        OptionRow(
            "bits", ((4, 2), (3, 6)), lambda v: [str(one.layers["conv"]) for one in front(bits=v).points],
            lambda a, b: (a, b) == (["W2A2", "W4A4"], ["W3A3", "W6A6"]),
        ),
        OptionRow(
            "pairs", ("equal", "all"), lambda v: [one.name for one in front(pairs=v).points],
            lambda a, b: (a, b) == (["W2A2", "W4A4"], ["W2A2", "W2A4", "W4A2", "W4A4"]),
        ),
        OptionRow(
            "first_last", (False, True),
            lambda v: [(one.layers["stem"], one.layers["head"]) for one in front(first_last=v).points],
            lambda a, b: a == [(LayerBits(8, 8),) * 2] * 2 and b == [(LayerBits(w, w),) * 2 for w in (2, 4)],
        ),
        OptionRow(
            "first_last", (False, True), lambda v: front(first_last=v).notes,
            lambda a, b: (a, b) == (["pinned: stem W8A8, head W8A8"], []), says="the note",
        ),
        OptionRow("images", (3, 6), lambda v: sum(seen.loss_calls(short(images=v))),  # type: ignore[arg-type]
                  lambda a, b: (a, b) == (2 * 3, 2 * 6)),
        OptionRow("calibration_images", (2, 5), calibrated, lambda a, b: (a, b) == ({2}, {5})),
        OptionRow("batch_size", (4, 2), lambda v: max(seen.loss_calls(short(batch_size=v))),  # type: ignore[arg-type]
                  lambda a, b: (a, b) == (4, 2)),
        OptionRow("seed", (0, 5), lambda v: front(seed=v),
                  lambda a, b: (a.seed, b.seed) == (0, 5) and a.measured.data != b.measured.data),
    )  # fmt: skip


def test_defaults_are_those_that_are_documented() -> None:
    assert UniformFront() == UniformFront(
        bits=(8, 6, 5, 4, 3, 2), pairs="equal", first_last=False, images=1024, calibration_images=256, batch_size=256,
        seed=0,
    )  # fmt: skip
