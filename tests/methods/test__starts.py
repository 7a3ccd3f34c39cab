"""What an evolution begins with: policies of cheap methods, from scores of the supernet's own weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from mixbit import _distributed
from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits
from mixbit.errors import MixbitError
from mixbit.ledger import Ledger
from mixbit.methods import Fit, LimpqInit
from mixbit.methods._genes import Genes
from mixbit.methods._starts import Started, Starts, check_starts, float_task, tables_digest
from mixbit.policy import Terms
from mixbit.quantization import detach
from mixbit.supernet import Supernet, SupernetTraining, Uniform, select, train_supernet, training
from tests.support import chain, random_latency, random_memory
from tests.tasks import Net, tiny_task

BITS = (8, 4, 3, 2)


@cache
def supernet(norms: Any = "shared", first_last: bool = False) -> Supernet:
    """As it was built; the weights are not those of the task."""
    with mock.patch.object(training, "train"):
        found = train_supernet(tiny_task(), SupernetTraining(
            bits=BITS, batch_size=16, calibration_images=16, statistics_images=32, norms=norms, first_last=first_last
        ))  # fmt: skip
    with torch.no_grad():
        for number, parameter in enumerate(found.model.parameters()):
            if parameter.dim() > 1:
                parameter.mul_(1 + 0.1 * number)
    return found


def starts(names: tuple[str, ...], limits: tuple[str, ...] = (), **more: Any) -> Starts:
    own = supernet(**more)
    genes = Genes(own.task.network, own.settings, limits)
    return Starts(supernet=own, genes=genes, names=names, costs=("bitops", "weight_bytes"), seed=3, quiet=True)


def rows(asked: Starts, path: Path | None = None) -> tuple[list[list[int]], list[str]]:
    found, notes = asked.rows(asked.ledger(path, {}))
    return found.tolist(), notes


@pytest.mark.parametrize("first_last", [False, True])
def test_policies_are_those_of_the_methods_at_what_uniform_networks_use(first_last: bool) -> None:
    asked = starts(("fit", "limpq-init"), ("activation-bytes=4x4",), first_last=first_last)
    task, terms = float_task(asked.supernet), Terms(pins={} if first_last else None)
    given: dict[str, Any] = {"bits": BITS, "first_last": first_last, "seed": 3}
    texts = [f"{kind}={bits}x{bits}" for kind in ("bitops", "weight-bytes") for bits in (3, 4)]
    wanted = []
    for method in (Fit(**given), LimpqInit(**given)):
        scores = method.search(task, quiet=True)
        wanted += [
            allocate(task.network, scores, Budget.parse([text]), AllocationSettings(pins=terms.pins))[0].layers
            for text in [*texts, "activation-bytes=4x4"]
        ]
    found, notes = rows(asked)
    uniform = asked.genes.uniform().tolist()
    assert notes == [] and found[: len(uniform)] == uniform and len({tuple(row) for row in found}) == len(found)
    layers = [asked.genes.layers(row) for row in found]  # type: ignore[arg-type]
    assert all(one in layers for one in wanted)
    assert all(row in uniform or asked.genes.layers(row) in wanted for row in found)  # type: ignore[arg-type]
    limit = terms.limits(task.network, Budget.parse(["bitops=3x3"]))["bitops"]
    assert terms.costs(task.network, wanted[0]).bitops <= limit


@pytest.mark.parametrize("norms", ["shared", "bits"])
def test_what_is_scored_is_the_supernet_in_float(norms: Any) -> None:
    """Plain modules with its weights, and norms with the mean statistics of training batches."""
    own = supernet(norms)
    task = float_task(own)
    plain, state = Net(), task.model.state_dict()
    plain.load_state_dict(state)
    assert type(task.model) is Net and len(task.train) == len(own.task.train) - len(own.held_out)
    mine = dict(own.model.named_parameters())
    assert all(torch.equal(state[name], mine[name]) for name in ("conv1.weight", "hidden.weight", "head.bias"))
    norms_of = [one for one in plain.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms_of:
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        for x in own.judge.batches:
            plain.train()(x)
    for mean in ("bn0.running_mean", "bn2.running_mean"):
        torch.testing.assert_close(state[mean], plain.state_dict()[mean])


def test_of_norms_with_rows_those_of_the_highest_bits_are_taken() -> None:
    own = supernet("bits")
    select(own.model, Uniform(8))
    with torch.no_grad():
        rows_of = dict(own.model.named_parameters())["bn1.weight"]
        rows_of.copy_(torch.arange(1.0, rows_of.numel() + 1).view_as(rows_of))
    wanted = copy.deepcopy(own.model)
    detach(wanted)
    select(own.model, Uniform(2))
    mine = float_task(own).model.state_dict()["bn1.weight"]
    assert torch.equal(mine, wanted.state_dict()["bn1.weight"])


def test_a_search_that_goes_on_begins_where_it_began(tmp_path: Path) -> None:
    asked = starts(("limpq-init",))
    first = rows(asked, tmp_path / "starts.jsonl")
    with mock.patch.object(LimpqInit, "search", side_effect=AssertionError("searched")):
        assert rows(asked, tmp_path / "starts.jsonl") == first
    assert [*Ledger(tmp_path / "starts.jsonl", "starts of an evolution", dict(facts()))] == ["limpq-init"]


def facts() -> Iterator[tuple[str, Any]]:
    yield from {"bits": sorted(BITS), "costs": ["bitops", "weight_bytes"], "limits": [], "seed": 3}.items()


def test_several_processes_begin_with_what_the_first_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Started] = []

    def of_first(make: Callable[[], bytes]) -> bytes:
        told.append(Started(**json.loads(make())))
        return json.dumps({"genomes": [[1, 0, 0, 0, 0, 2]], "note": ""}).encode()

    asked = starts(("limpq-init",))
    monkeypatch.setattr(_distributed, "bytes_of_first", of_first)
    assert rows(asked)[0] == [*asked.genes.uniform().tolist(), [1, 0, 0, 0, 0, 2]] and len(told[0].genomes) == 4


def test_a_method_that_fails_is_left_out_and_told() -> None:
    with mock.patch.object(Fit, "search", side_effect=MixbitError("no gradients")):
        found, notes = rows(starts(("fit",)))
    assert len(found) == 16 and notes == ["fit gave no policies to start from: no gradients"]


def test_two_bit_widths_have_a_budget_between() -> None:
    asked = starts(("fit",))
    two = Genes(asked.genes.network, SupernetTraining(bits=(8, 2)))
    assert [one.texts for one in replace(asked, genes=two).budgets()] == [{"bitops": "2x8"}, {"weight-bytes": "2x8"}]


@pytest.mark.parametrize("names", [("limpq",), ("random-search",), ("uniform-front",), ("fit", "fit"), ("hawq-v9",)])
def test_methods_that_cannot_be_asked(names: tuple[str, ...]) -> None:
    with pytest.raises(MixbitError, match="Legal"):
        check_starts(names)


def test_tables_are_told_apart_by_all_that_is_in_them() -> None:
    net = chain((10, 100), (10, 100), (10, 100))
    config = SupernetTraining(bits=(8, 2))

    def digest(**tables: Any) -> dict[str, str]:
        return tables_digest(Genes(net, config, (), Terms(**tables)))

    assert digest() == {}
    times, memory = random_latency(net, seed=1), random_memory(net, seed=1)
    laid = memory.laid_out(net, {one.name: LayerBits(2, 2) for one in net.layers}, 10_000, 10_000)
    every = [digest(latency=times), digest(latency=random_latency(net, seed=2)), digest(memory=memory),
             digest(memory=replace(memory, rest=memory.rest + 1)), digest(memory=laid)]  # fmt: skip
    assert all(one != other for at, one in enumerate(every) for other in every[:at])
    turned = replace(
        memory, weights=dict(reversed(memory.weights.items())), coded=frozenset(memory.coded or ()) or None
    )
    assert digest(memory=turned) == digest(memory=memory)
