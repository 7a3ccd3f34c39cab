"""Evolution in a network that was trained at all bit-widths: genes, limits, quality, and the weights of the front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from safetensors.torch import load_file

from mixbit.cost import Budget, LayerBits
from mixbit.errors import BudgetError, DataError, InfeasibleBudget, MixbitError, StaleRun
from mixbit.evaluation import evaluate
from mixbit.methods import Fit, FrontMethod, Qfa, qfa
from mixbit.policy import Front, Terms
from mixbit.quantization import quantizers
from mixbit.supernet import SubnetJudge, SupernetTraining, build_supernet, load_supernet, select, training
from mixbit.task import Task
from mixbit.testing.methods import FrontMethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.supernet import nets
from tests.support import random_latency, random_memory
from tests.tasks import tiny_task

SHORT = {"bits": (8, 4, 2), "epochs": 1, "batch_size": 16, "passes": 2, "population": 4, "generations": 2,
         "calibration_images": 16, "statistics_images": 32, "distill": 0.0, "starts": ()}  # fmt: skip


def short(**more: Any) -> Qfa:
    return Qfa(**{**SHORT, **more})


def untrained(**more: Any) -> Front:
    """The evolution alone, in the network as it was built."""
    with mock.patch.object(training, "train"):
        return short(**more).search(tiny_task(), quiet=True)


class TestContract(FrontMethodCases):
    def method(self, seed: int) -> FrontMethod:
        return short(seed=seed, held_out=0.4, population=8, generations=3)

    def task(self) -> Task:
        return tiny_task()


def test_the_front_is_not_to_be_beaten_and_its_quality_is_the_judges() -> None:
    more = {"held_out": 0.4, "population": 8, "generations": 3}
    front = untrained(**more)
    losses = [point.quality["loss"] for point in front.points]
    costs = [point.costs["bitops"] for point in front.points]
    assert costs == sorted(costs) and losses == sorted(losses, reverse=True) and len(set(losses)) == len(losses) > 1
    task, method = tiny_task(), short(**more)
    part, held = method.parts(task)
    model = build_supernet(part, method.supernet())
    judge = method.judge(model, part, held)
    for point in (front.points[0], front.points[-1]):
        assert judge(point.layers).loss == pytest.approx(point.quality["loss"], rel=1e-5)
    assert front.measured.on == f"{len(held)} training images that trained nothing (seed 0)"


def test_limits_hold_for_all_that_is_evaluated() -> None:
    network, seen_bits = tiny_task().network, []
    call = SubnetJudge.__call__

    def spy(self: SubnetJudge, layers: Any) -> Any:
        seen_bits.append(layers)
        return call(self, layers)

    with mock.patch.object(SubnetJudge, "__call__", spy):
        untrained(limits=("bitops=4x4",), generations=3)
    limit = Terms().limits(network, Budget.parse(["bitops=4x4"]))["bitops"]
    used = [Terms().costs(network, layers).bitops for layers in seen_bits]
    assert len(used) > 4 and max(used) <= limit


def test_costs_and_limits_are_counted_by_tables(tmp_path: Path) -> None:
    """Times and memory by hand; a table that changed is another search."""
    network, bits = tiny_task().network, (2, 4, 8)
    times, memory = random_latency(network, bits, seed=1), random_memory(network, bits, seed=1)
    more: dict[str, Any] = {
        "costs": ("latency", "ram_bytes"),
        "limits": ("flash=4x4", "latency=8x8"),
        "population": 6,
        "starts": ("map-size",),
    }
    with mock.patch.object(training, "train"):
        with pytest.raises(BudgetError, match="costs='latency' needs a latency table"):
            short(**more).search(tiny_task(), quiet=True)
        terms = Terms(latency=times, memory=memory)
        front = short(**more).search(tiny_task(), terms=terms, run=tmp_path, quiet=True)
        other = replace(terms, latency=random_latency(network, bits, seed=2))
        with pytest.raises(StaleRun, match="starts.jsonl"):
            short(**more).search(tiny_task(), terms=other, run=tmp_path, quiet=True)
        (tmp_path / "starts.jsonl").unlink()
        with pytest.raises(StaleRun, match="evolution.jsonl"):
            short(**more).search(tiny_task(), terms=other, run=tmp_path, quiet=True)
    limits = terms.limits(network, Budget.parse(more["limits"]))
    order = []
    for point in front.points:
        assert (point.costs["latency_ns"], point.costs["ram_bytes"], point.costs["flash_bytes"]) == (
            times.cost(point.layers), memory.ram(network, point.layers), memory.flash(point.layers)
        )  # fmt: skip
        assert times.cost(point.layers) <= limits["latency"] and memory.flash(point.layers) <= limits["flash_bytes"]
        order.append(times.cost(point.layers))
    assert order == sorted(order) and len(order) > 1


def test_a_start_that_fails_is_told_in_the_front() -> None:
    with mock.patch.object(Fit, "search", side_effect=MixbitError("no gradients")):
        front = untrained(starts=("fit",), generations=1)
    assert front.notes[-1] == "fit gave no policies to start from: no gradients"


def test_the_weights_of_the_front_are_in_the_folder_and_give_its_numbers(tmp_path: Path) -> None:
    task, method = tiny_task(), short()
    front = method.search(task, run=tmp_path, quiet=True)
    assert front.weights is not None and front.weights.path == training.WEIGHTS
    model = build_supernet(task, method.supernet())
    model.load_state_dict(load_file(tmp_path / training.WEIGHTS))
    part, held = method.parts(task)
    judge = method.judge(model, part, held)
    point = front.points[-1]
    select(model, point.layers)
    assert judge(point.layers).loss == pytest.approx(point.quality["loss"], rel=1e-4)


def test_a_sub_network_is_an_ordinary_one_with_the_quality_of_its_point(tmp_path: Path) -> None:
    task, method = tiny_task(), short(held_out=0.4, population=8, norms="bits")
    front = method.search(task, run=tmp_path, quiet=True)
    held = method.parts(task)[1]
    for point in (front.points[0], front.points[-1]):
        model = qfa.subnet(task, front, tmp_path / training.WEIGHTS, point.layers)
        assert evaluate(model, held, loss=task.objective).loss == pytest.approx(point.quality["loss"], rel=1e-4)
        assert all(len(bank.bits) == 1 for bank in quantizers(model).values())
    with pytest.raises(MixbitError, match="layer 'conv1' has no 3 bits. Legal: 8, 4, 2"):
        qfa.subnet(task, front, tmp_path / training.WEIGHTS, {**point.layers, "conv1": LayerBits(3, 4)})
    with pytest.raises(MixbitError, match="of 'uniform-front'. Legal: one of mixbit search qfa"):
        qfa.settings_of(replace(front, method="uniform-front"))


def test_a_killed_evolution_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    whole = untrained()
    call, done = SubnetJudge.__call__, []

    def killed(self: SubnetJudge, layers: Any) -> Any:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(str(layers))
        return call(self, layers)

    with mock.patch.object(training, "train"):
        with mock.patch.object(SubnetJudge, "__call__", killed), pytest.raises(KeyboardInterrupt):
            short().search(tiny_task(), run=tmp_path, quiet=True)
        again: list[str] = []
        with mock.patch.object(SubnetJudge, "__call__", lambda s, bits: (again.append(str(bits)), call(s, bits))[1]):
            found = short().search(tiny_task(), run=tmp_path, quiet=True)
    assert found.points == whole.points and not set(done) & set(again)


def test_what_cannot_be(tmp_path: Path) -> None:
    for wrong, told in (
        ({"costs": ()}, "Legal: one or two of bitops"),
        ({"costs": ("bitops", "bitops")}, "Legal: one or two of bitops"),
        ({"starts": ("limpq",)}, "'limpq' is none to start from"),
        ({"held_out": 1.0}, "leaves nothing to train on"),
        ({"bits": (4,)}, "at least two bit-widths"),
        ({"limits": ("bitop=3",)}, "Did you mean"),
    ):
        with pytest.raises(MixbitError, match=told):
            short(**wrong)
    with pytest.raises(InfeasibleBudget), mock.patch.object(training, "train", side_effect=AssertionError("trained")):
        short(limits=("bitops=1",)).search(tiny_task(), quiet=True)
    with pytest.raises(DataError):
        short().search(nets.task(), quiet=True)


def asked(**more: Any) -> Any:
    """The evolution that is asked for."""

    class Enough(Exception):
        pass

    found: list[Any] = []

    def stop(self: Any, *args: Any, **named: Any) -> None:
        found.append((self, named))
        raise Enough

    with mock.patch.object(qfa.Evolution, "run", stop), pytest.raises(Enough):
        untrained(**more)
    return found[0]


def seeds(seed: int) -> tuple[int, int]:
    """Of the evolution and of the supernet."""
    return asked(seed=seed)[0].seed, short(seed=seed).supernet().seed


def taken(first: Any, second: Any) -> Callable[[Any, Any], bool]:
    return lambda a, b: (a, b) == (first, second)


def test_settings_of_the_supernet_reach_it() -> None:
    values = {"bits": (8, 3), "first_last": True, "passes": 6, "float_share": 0.5, "norms": "pair", "epochs": 3,
              "per_channel": False, "activations": "pact", "calibration_images": 32, "batch_size": 8, "lr": 0.1,
              "step_lr": None, "weight_decay": 0.1, "label_smoothing": 0.1, "distill": 0.25, "fraction": 0.5,
              "precision": "bf16", "held_out": 0.5, "held_out_seed": 2, "statistics_images": 48, "seed": 5}  # fmt: skip
    assert set(values) == set(fields_of(SupernetTraining))
    usual = asdict(SupernetTraining())
    assert all(usual[name] != value for name, value in values.items())
    found = short(**values).supernet()
    assert type(found) is SupernetTraining and asdict(found) == values


def test_a_front_says_how_its_supernet_was_trained(tmp_path: Path) -> None:
    untrained(generations=1, held_out_seed=3).save(tmp_path / "front.json")
    assert qfa.settings_of(Front.load(tmp_path / "front.json")) == short(held_out_seed=3).supernet()


def test_a_trained_supernet_is_searched_by_the_evolutions_settings_alone(tmp_path: Path) -> None:
    """Whatever the method's own say of bits and training."""
    task = tiny_task()
    whole = short().search(task, run=tmp_path / "a", quiet=True)
    found = load_supernet(task, tmp_path / "a")
    with mock.patch.object(training, "train", side_effect=AssertionError("trained")):
        front = short(bits=(6, 5), epochs=9, batch_size=1, held_out=0.9).evolve(found, run=tmp_path / "b", quiet=True)
    assert front.points == whole.points and front.settings == whole.settings
    assert front.weights is not None and front.weights.path == "../a/supernet.safetensors"
    assert front.weights.check(tmp_path / "b") == tmp_path / "a" / "supernet.safetensors"


class TestQfaOptions(OptionCases):
    """What the supernet and its training do with theirs is in their own tables; that they get them is tested above."""

    owner = Qfa
    options = tuple(
        name for name in fields_of(Qfa) if name not in fields_of(SupernetTraining) or name in ("bits", "seed")
    )
    rows = (
        OptionRow("bits", ((8, 2), (8, 4, 3)), lambda v: asked(bits=v)[0].options[0], taken(2, 3)),
        OptionRow("costs", (("bitops",), ("weight_bytes", "activation_bytes")),
                  lambda v: len(asked(costs=v)[0].objectives), taken(2, 3)),
        OptionRow("costs", (("bitops",), ("weight_bytes",)),
                  lambda v: [p.costs[v[0]] for p in untrained(costs=v).points],
                  lambda a, b: a == sorted(a) and b == sorted(b)),
        OptionRow("limits", ((), ("bitops=4x4",)), lambda v: asked(limits=v)[1]["repair"] is None, taken(True, False)),
        OptionRow("starts", ((), ("map-size", "limpq-init")), lambda v: len(asked(starts=v)[1]["start"]),
                  lambda a, b: a == 9 < b),
        OptionRow("by", ("loss", "metric"), lambda v: asked(by=v)[0].objectives[0], taken("min", "max")),
        OptionRow("population", (4, 6), lambda v: asked(population=v)[0].population, taken(4, 6)),
        OptionRow("generations", (2, 3), lambda v: asked(generations=v)[0].generations, taken(2, 3)),
        OptionRow("seed", (0, 1), seeds, taken((0, 0), (1, 1))),
    )  # fmt: skip
