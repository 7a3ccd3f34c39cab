"""Random search: the best of what was drawn, and no more than was asked for."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mixbit.cost import Budget, costs
from mixbit.errors import MixbitError, StaleRun
from mixbit.methods import PolicyMethod, RandomSearch
from mixbit.metric import average
from mixbit.policy import Policy, Terms, resolve_pins
from mixbit.sensitivity import judging
from mixbit.sensitivity.judging import Judge, bits_text
from mixbit.task import Task
from mixbit.testing.methods import PolicyMethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of, lower
from tests.cli import tiny
from tests.methods import seen
from tests.support import random_latency, random_memory
from tests.tasks import tiny_task

BUDGET = Budget.parse(["bitops=4x4"])


def short(**more: Any) -> RandomSearch:
    given = {"trials": 5, "images": 6, "calibration_images": 4, "batch_size": 4, **more}
    return RandomSearch(**given)


class TestContract(PolicyMethodCases):
    def method(self, seed: int) -> PolicyMethod:
        return RandomSearch(trials=4, images=32, calibration_images=16, seed=seed)

    def task(self) -> Task:
        return tiny_task()


class TestContractOfProjections(TestContract):
    def method(self, seed: int) -> PolicyMethod:
        return RandomSearch(trials=4, images=32, calibration_images=16, draw="project", seed=seed)


def judged(monkeypatch: pytest.MonkeyPatch, worth: Any = None) -> list[Policy]:
    """The policies that are measured, in order."""
    found: list[Policy] = []
    call = Judge.__call__

    def note(self: Judge, policy: Policy) -> Any:
        found.append(policy)
        measured = call(self, policy)
        return measured if worth is None else replace(measured, **worth(len(found)))

    monkeypatch.setattr(Judge, "__call__", note)
    return found


@pytest.mark.parametrize("draw", ["raise", "project"])
def test_all_that_is_measured_is_within_the_budget_and_different(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = judged(monkeypatch)
    network = seen.small_task().network
    short(draw=draw, trials=8).search(seen.small_task(), BUDGET, quiet=True)
    limit = BUDGET.resolve(network, resolve_pins(network))["bitops"]
    assert len({bits_text(one.layers) for one in tried}) == len(tried) == 8
    assert all(costs(network, one.layers).bitops <= limit for one in tried)


@pytest.mark.parametrize("best", [1, 3, 5])
def test_the_best_is_kept_with_what_was_measured(best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loss, of which less is better, whatever the accuracy."""
    losses = [0.5 if at == best else 0.5 + at / 8 for at in range(1, 6)]
    tried = judged(monkeypatch, lambda at: {"loss": losses[at - 1], "values": {"accuracy": at / 10}})
    found = short().search(seen.small_task(), BUDGET, quiet=True)
    assert found.layers == tried[best - 1].layers and found.method == "random-search"
    assert found.allocation["objective"] == 0.5 and found.allocation["evaluations"] == 5
    assert found.allocation["quality"] == {"accuracy": best / 10, "loss": 0.5}
    assert f"the median is {statistics.median(losses):.4g}" in found.notes[-1]
    assert found.notes[0] == "pinned: stem W8A8, head W8A8"


def test_where_the_budget_leaves_fewer_fewer_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of two candidates: 16 policies, of which those are drawn that nothing can be added to."""
    tried = judged(monkeypatch)
    found = short(bits=(4, 2), trials=50).search(seen.small_task(), Budget.parse(["bitops=8x8"]), quiet=True)
    assert len(tried) == 1  # all at 4 bits
    assert found.notes[-1] == "20 draws in a row gave nothing new, so 1 of 50 were measured"


def test_a_killed_search_goes_on_and_more_trials_measure_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, whole = seen.small_task(), short().search(seen.small_task(), BUDGET, quiet=True)
    call, calls = Judge.__call__, []

    def killed(self: Judge, policy: Policy) -> Any:
        calls.append(policy)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(self, policy)

    with monkeypatch.context() as patched:
        patched.setattr(Judge, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            short().search(task, BUDGET, run=tmp_path, quiet=True)
        patched.setattr(Judge, "__call__", lambda self, policy: (calls.append(policy), call(self, policy))[1])
        assert short().search(task, BUDGET, run=tmp_path, quiet=True) == whole
        assert len(calls) == 3 + 3
        short(trials=7).search(task, BUDGET, run=tmp_path, quiet=True)
        assert len(calls) == 3 + 3 + 2
    rows = [json.loads(line) for line in (tmp_path / "random-search.jsonl").read_text().splitlines()[1:]]
    assert len({row["key"] for row in rows}) == 7 and all({*row["value"]} == {"accuracy", "loss"} for row in rows)
    with pytest.raises(StaleRun, match="images=6, now images=7"):
        short(images=7).search(task, BUDGET, run=tmp_path, quiet=True)


@pytest.mark.parametrize("draw", ["raise", "project"])
def test_limits_on_time_are_met(draw: Any) -> None:
    """Where fewer bits may take longer, so that the fewest are no policy to begin with."""
    task = seen.small_task()
    times = random_latency(task.network, bits=(2, 3, 4, 5, 6, 8))
    fewest = times.cost(Policy.uniform(task.network, 2, 2).layers)
    budget = Budget.parse([f"latency={fewest - 1}ns"])
    found = short(draw=draw).search(task, budget, terms=Terms(latency=times), quiet=True)
    assert found.costs["latency_ns"] == times.cost(found.layers) < fewest


@pytest.mark.parametrize("draw", ["raise", "project"])
def test_all_terms_reach_the_draws(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network of which two layers read one tensor."""
    tried, task = judged(monkeypatch), tiny.task()
    memory = random_memory(task.network, bits=(2, 3, 4, 5, 6, 8))
    wide = Budget.parse(["bitops=4x4", "flash=1GB"])
    for ties in (True, False):
        tried.clear()
        terms = Terms(ties=ties, macs="limpq", memory=memory)
        found = short(draw=draw, trials=6).search(task, wide, terms=terms, quiet=True)
        shared = [one.layers["left"].activation_bits == one.layers["right"].activation_bits for one in tried]
        assert all(shared) == ties
        assert found.macs == "limpq" and found.costs["flash_bytes"] == memory.flash(found.layers)
        assert found.costs == terms.cost_table(task.network, found.layers)


def test_a_metric_without_a_direction_cannot_say_what_is_best() -> None:
    task = seen.small_task()
    odd = Task(
        model=task.model, train=task.train, test=task.test, network=task.network,
        metric=average(lambda outputs, targets: outputs.sum(), name="odd", larger_is_better=None),
    )  # fmt: skip
    with pytest.raises(MixbitError, match="'odd' are to be compared"):
        short(by="metric").search(odd, BUDGET, quiet=True)
    assert short(by="loss").search(odd, BUDGET, quiet=True).allocation["evaluations"] == 5


# --------------------------------------------------------------------------------------------------------- options


def tried(**settings: Any) -> list[Policy]:
    with pytest.MonkeyPatch.context() as patched:
        found = judged(patched)
        short(**settings).search(seen.small_task(), BUDGET, quiet=True)
    return found


def sides(**settings: Any) -> set[int | None]:
    """Bits that free layers got."""
    return {
        side for one in tried(**settings) for name in seen.SEARCHED
        for side in (one.layers[name].weight_bits, one.layers[name].activation_bits)
    }  # fmt: skip


def calls(**settings: Any) -> list[int]:
    """Images of each call of the loss."""
    return seen.loss_calls(_Under(short(**settings)))  # type: ignore[arg-type]


class _Under:
    """A method with its budget, for what asks for scores."""

    def __init__(self, method: RandomSearch) -> None:
        self.method = method

    def search(self, task: Task, *, run: Path | None = None, quiet: bool = False) -> Policy:
        return self.method.search(task, BUDGET, run=run, quiet=quiet)


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


def chosen(by: str) -> float:
    """Accuracy of what is taken where it rises with the loss."""
    with pytest.MonkeyPatch.context() as patched:
        judged(patched, lambda at: {"loss": at / 10, "values": {"accuracy": at / 10}})
        found = short(by=by).search(seen.small_task(), BUDGET, quiet=True).allocation["objective"]
    assert isinstance(found, float)
    return found


class TestRandomSearchOptions(OptionCases):
    owner = RandomSearch
    options = fields_of(RandomSearch)
    rows = (
        OptionRow("bits", ((8, 2), (6, 3)), lambda v: sides(bits=v), lambda a, b: (a, b) == ({8, 2}, {6, 3})),
        OptionRow("trials", (3, 6), lambda v: len(tried(trials=v)), lambda a, b: (a, b) == (3, 6)),
        OptionRow(
            "draw",
            ("raise", "project"),
            # Raised until nothing fits, they use more of the budget than bits that are drawn evenly and fit already.
            lambda v: statistics.fmean(one.costs["bitops"] for one in tried(draw=v, trials=20)),
            lower,
        ),
        OptionRow("by", ("loss", "metric"), chosen, lambda a, b: (a, b) == (0.1, 0.5)),
        OptionRow("images", (3, 6), lambda v: sum(calls(images=v, trials=2)), lambda a, b: (a, b) == (2 * 3, 2 * 6)),
        OptionRow("calibration_images", (2, 5), lambda v: calibrated(calibration_images=v),
                  lambda a, b: (a, b) == ({2}, {5})),
        OptionRow("batch_size", (4, 2), lambda v: max(calls(batch_size=v)), lambda a, b: (a, b) == (4, 2)),
        OptionRow(
            "seed", (0, 5), lambda v: [bits_text(one.layers) for one in tried(seed=v)],
            lambda a, b: a != b and a == [bits_text(one.layers) for one in tried()], says="draws",
        ),
        OptionRow(
            "seed", (0, 5), lambda v: short(seed=v).search(seen.small_task(), BUDGET, quiet=True).seed,
            lambda a, b: (a, b) == (0, 5), says="written down",
        ),
    )  # fmt: skip


def test_defaults_are_those_that_are_documented() -> None:
    assert RandomSearch() == RandomSearch(
        bits=(8, 6, 5, 4, 3, 2), trials=32, draw="raise", by="loss", images=1024, calibration_images=256,
        batch_size=256, seed=0,
    )  # fmt: skip
