"""The engine against a look at all genomes of small spaces, against pymoo, and after a kill at any evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbit.errors import MixbitError, StaleRun
from mixbit.ledger import Ledger
from mixbit.search import Evolution, Found, hypervolume, non_dominated
from mixbit.search._nsga2 import crossed, crowding, drawn, mutated, parents, ranks, survivors, thinned
from mixbit.testing.options import OptionCases, OptionRow, alike, fields_of, unlike
from tests.needs import needs

Evaluate = Callable[[np.ndarray], np.ndarray]

SMALL: dict[str, Any] = {"options": (3,) * 6, "objectives": ("min", "min"), "population": 30, "generations": 16}


def weighed(seed: int, genes: int, choices: int, objectives: int = 2) -> Evaluate:
    """A cost that rises with each gene, and losses that fall with it at unequal speeds, and that two genes share."""
    rng = np.random.default_rng(seed)
    cost, harm = rng.integers(1, 20, genes), rng.integers(1, 40, (objectives - 1, genes))

    def evaluate(genomes: np.ndarray) -> np.ndarray:
        left = (choices - 1 - genomes) ** 2
        losses = [(left * one).sum(axis=1) + 3 * left[:, 0] * left[:, -1] for one in harm]
        return np.stack([genomes @ cost, *losses], axis=1).astype(float)

    return evaluate


def everything(options: tuple[int, ...]) -> np.ndarray:
    return np.array(list(itertools.product(*map(range, options))))


def true_front(
    evaluate: Evaluate, options: tuple[int, ...], legal: Callable[[np.ndarray], bool] = lambda _: True
) -> Any:
    """The values that no genome of the whole space beats."""
    values = evaluate(np.array([one for one in everything(options) if legal(one)]))
    return {
        tuple(one) for one in values.tolist() if not ((values <= one).all(axis=1) & (values < one).any(axis=1)).any()
    }


def front_of(found: Found) -> set[tuple[float, ...]]:
    return {tuple(one) for one in found.values[found.front].tolist()}


def same(one: Found, other: Found) -> bool:
    return all(alike(getattr(one, name), getattr(other, name)) for name in fields_of(Found))


class Killed(Exception):
    """What stops a search in its tests."""


# ------------------------------------------------------------------------------------------------ what is found


@pytest.mark.parametrize("seed", range(3))
def test_all_of_a_small_front_is_found(seed: int) -> None:
    evaluate = weighed(seed, 6, 3)
    found = Evolution(**SMALL, seed=seed).run(evaluate)
    assert found.evaluations <= 480 < 3**6
    assert front_of(found) == true_front(evaluate, (3,) * 6)


def test_three_objectives() -> None:
    evaluate = weighed(0, 6, 3, objectives=3)
    found = Evolution(**{**SMALL, "objectives": ("min",) * 3, "generations": 24}).run(evaluate)
    wanted = true_front(evaluate, (3,) * 6)
    assert len(front_of(found) & wanted) >= 0.9 * len(wanted)


def test_one_objective_has_one_best() -> None:
    found = Evolution(options=(4,) * 5, objectives=("max",), population=10, generations=15).run(
        lambda genomes: -((genomes - [0, 3, 1, 2, 2]) ** 2).sum(axis=1, keepdims=True)
    )
    assert found.genomes[found.front].tolist() == [[0, 3, 1, 2, 2]]


def test_what_is_to_be_large_is_what_is_to_be_small_negated() -> None:
    evaluate = weighed(1, 6, 3)
    least = Evolution(**SMALL).run(evaluate)
    most = Evolution(**{**SMALL, "objectives": ("max", "min")}).run(lambda genomes: evaluate(genomes) * [-1, 1])
    assert np.array_equal(least.genomes, most.genomes) and np.array_equal(least.front, most.front)
    assert least.history == most.history
    assert most.reference == (-least.reference[0], least.reference[1])


def test_no_genome_is_evaluated_twice_and_all_are_legal() -> None:
    options, seen = (1, 2, 5, 3), []
    found = Evolution(options=options, objectives=("min", "min"), population=6, generations=50).run(
        lambda genomes: (seen.extend(genomes.tolist()), weighed(0, 4, 5)(genomes))[1]
    )
    assert len(seen) == len({*map(tuple, seen)}) == found.evaluations == 1 * 2 * 5 * 3
    assert sorted(seen) == everything(options).tolist()


def test_a_search_ends_when_nothing_is_new() -> None:
    """Thirty genomes, and room for three hundred: the history has no generation that evaluated nothing."""
    found = Evolution(options=(5, 6), objectives=("min", "min"), population=10, generations=30).run(weighed(0, 2, 6))
    assert found.evaluations == 30 and 3 <= len(found.history) < 30


def test_rows_that_live_on_and_their_history() -> None:
    told: list[Found] = []
    evaluate = weighed(2, 10, 4)
    asked = Evolution(options=(4,) * 10, objectives=("min", "min"), population=12, generations=8)
    found = asked.run(evaluate, on_generation=told.append)
    assert same(told[-1], found) and [len(one.history) for one in told] == [*range(1, 9)]
    assert [one.evaluations for one in told] == [*range(12, 97, 12)]
    first = evaluate(found.genomes[:12])
    reference = first.max(axis=0) + 0.1 * np.ptp(first, axis=0)
    assert found.reference == pytest.approx(reference)
    for one in told:
        assert one.history[-1] == pytest.approx(hypervolume(one.values, reference))
        assert one.front.tolist() == non_dominated(one.values).tolist()
        assert len(one.population) == 12
    assert [*found.history] == sorted(found.history)


def test_volumes_are_counted_from_the_first_generation_where_later_ones_are_worse() -> None:
    start, told = everything((2,) * 4), list[Found]()
    asked = Evolution(options=(6,) * 4, objectives=("min", "max"), population=16, generations=4, mutation=1.0)
    evaluate: Evaluate = lambda genomes: np.stack([genomes.sum(axis=1), -genomes @ [1, 2, 3, 4]], axis=1)  # noqa: E731
    found = asked.run(evaluate, start=start, on_generation=told.append)
    assert {one.reference for one in told} == {(4.4, -11.0)}, "0 to 4 and 0 to -10, and a tenth beyond"
    assert found.values[:, 0].max() > 4.4
    for one in told:
        assert one.history[-1] == pytest.approx(hypervolume(one.values * [1, -1], np.array([4.4, 11.0])))


def test_what_is_told_is_a_copy() -> None:
    def spoil(found: Found) -> None:
        for rows in (found.genomes, found.values, found.population):
            rows[:] = 0

    kept = found_with()
    asked = Evolution(**{**SMALL, "population": 10, "generations": 4})
    assert asked.run(weighed(0, 6, 3), on_generation=spoil).history == kept.history


def test_objectives_that_are_all_equal() -> None:
    found = Evolution(**SMALL).run(lambda genomes: np.ones((len(genomes), 2)))
    assert found.front.tolist() == [0] and {*found.history} == {0.0}


def zdt(kind: int, target: np.ndarray) -> Evaluate:
    """ZDT1 and ZDT2 (Zitzler, Deb, Thiele 2000) of eight choices a gene; the best tail is `target`, not zeros."""

    def evaluate(genomes: np.ndarray) -> np.ndarray:
        first = genomes[:, 0] / 7
        rest = 1 + 9 * (np.abs(genomes[:, 1:] - target) / 7).mean(axis=1)
        ratio = first / rest
        return np.stack([first, rest * (1 - (np.sqrt(ratio) if kind == 1 else ratio**2))], axis=1)

    return evaluate


def policies(seed: int, layers: int) -> Evaluate:
    """Costs and harms as those of layers at 2, 3, 4, 5, 6 and 8 bits: harm falls with 4 to the power of bits."""
    rng, bits = np.random.default_rng(seed), np.array([2, 3, 4, 5, 6, 8])
    macs, harm = rng.lognormal(0, 1, layers), rng.lognormal(0, 1.5, layers)
    return lambda genomes: np.stack([bits[genomes] @ macs, 4.0 ** -bits[genomes] @ harm], axis=1)


SPACES: dict[str, tuple[Evaluate, int, int]] = {
    "zdt1": (zdt(1, np.random.default_rng(1).integers(0, 8, 19)), 20, 8),
    "zdt2": (zdt(2, np.random.default_rng(0).integers(0, 8, 19)), 20, 8),
    "policies of 20 layers": (policies(0, 20), 20, 6),
    "policies of 60 layers": (policies(1, 60), 60, 6),
}


def plain_pymoo(evaluate: Evaluate, genes: int, choices: int, seed: int) -> np.ndarray:
    """All values that pymoo's NSGA-II sees with the operators that it has for whole numbers."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    seen = []

    class Space(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=genes, n_obj=2, xl=0, xu=choices - 1, vtype=int)

        def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = evaluate(x.astype(int))
            seen.append(out["F"])

    algorithm = NSGA2(
        pop_size=40,
        sampling=IntegerRandomSampling(),
        crossover=SBX(repair=RoundingRepair()),
        mutation=PM(repair=RoundingRepair()),
    )
    minimize(Space(), algorithm, ("n_gen", 25), seed=seed)
    return np.concatenate(seen)


@needs("pymoo")
@pytest.mark.parametrize("name", SPACES)
def test_the_volume_is_at_least_that_of_pymoo_at_equal_evaluations(name: str) -> None:
    """Mean of three seeds."""
    evaluate, genes, choices = SPACES[name]
    theirs = [plain_pymoo(evaluate, genes, choices, seed) for seed in range(3)]
    asked = {"options": (choices,) * genes, "objectives": ("min", "min"), "population": 40, "generations": 25}
    ours = [Evolution(**asked, seed=seed).run(evaluate).values for seed in range(3)]
    assert [len(one) for one in ours] == [len(one) for one in theirs] == [1000] * 3
    reference = np.max(np.concatenate([*ours, *theirs]), axis=0)
    means = [np.mean([hypervolume(one, reference) for one in each]) for each in (ours, theirs)]
    assert means[0] >= means[1]


# ------------------------------------------------------------------------------------------ start and repair


def test_a_start_is_evaluated_first_and_counts_once() -> None:
    start = [[0] * 6, [2] * 6, [0] * 6]
    found = Evolution(**{**SMALL, "population": 4, "generations": 2}).run(weighed(0, 6, 3), start=start)
    assert found.genomes[:2].tolist() == start[:2] and found.evaluations == 8


def test_a_start_may_be_larger_than_a_population() -> None:
    start = everything((3,) * 6)[:20]
    found = Evolution(**{**SMALL, "population": 5, "generations": 2}).run(weighed(0, 6, 3), start=start)
    assert found.genomes[:20].tolist() == start.tolist()
    assert found.evaluations == 20 + 5 and len(found.population) == 5


def within(most: int) -> Callable[[np.ndarray], list[int]]:
    """Take from the last gene that has something until the sum is legal."""

    def repair(genome: np.ndarray) -> list[int]:
        left = genome.tolist()
        while sum(left) > most:
            at = max(gene for gene, value in enumerate(left) if value)
            left[at] -= 1
        return left

    return repair


def test_repair_keeps_every_evaluated_genome_legal() -> None:
    evaluate = weighed(0, 6, 3)
    found = Evolution(**SMALL).run(evaluate, repair=within(5), start=[[2] * 6])
    assert found.genomes.sum(axis=1).max() == 5
    assert found.genomes[0].tolist() == [2, 2, 1, 0, 0, 0]
    assert front_of(found) == true_front(evaluate, (3,) * 6, lambda genome: genome.sum() <= 5)


def test_a_repair_cannot_change_what_is_known() -> None:
    def repair(genome: np.ndarray) -> np.ndarray:
        genome[:] = 0
        return genome

    found = Evolution(**SMALL).run(weighed(0, 6, 3), repair=repair)
    assert found.genomes.tolist() == [[0] * 6] and len(found.history) == 1


# ------------------------------------------------------------------------------------------- kills and ledgers


def test_a_search_that_is_killed_anywhere_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    evaluate, asked = weighed(0, 6, 3), Evolution(**{**SMALL, "population": 5, "generations": 4})
    whole = asked.run(evaluate, repair=within(8))
    for stop in range(whole.evaluations):
        path, calls = tmp_path / f"{stop}.jsonl", []

        def some(genomes: np.ndarray, *, stop: int = stop, calls: list[Any] = calls) -> np.ndarray:
            if len(calls) == stop:
                raise Killed
            calls.append(genomes)
            return evaluate(genomes)

        with pytest.raises(Killed):
            asked.run(some, repair=within(8), ledger=path, at_once=1)
        rest: list[int] = []
        found = asked.run(lambda g, rest=rest: (rest.append(len(g)), evaluate(g))[1], repair=within(8), ledger=path)
        assert same(found, whole)
        assert sum(rest) == whole.evaluations - stop


def test_a_finished_search_asks_for_nothing_more_and_goes_on_with_more_generations(tmp_path: Path) -> None:
    def never(genomes: np.ndarray) -> np.ndarray:
        raise Killed

    evaluate, path = weighed(0, 6, 3), tmp_path / "evolution.jsonl"
    short, long = (Evolution(**{**SMALL, "generations": count}) for count in (3, 5))
    found = short.run(evaluate, ledger=path)
    assert same(short.run(never, repair=never, ledger=path), found)
    assert same(long.run(evaluate, ledger=path), long.run(evaluate))


@pytest.mark.parametrize("at_once", [1, 7, None])
def test_how_many_are_given_at_once_changes_nothing_else(at_once: int | None) -> None:
    evaluate, sizes = weighed(0, 6, 3), []
    found = Evolution(**SMALL).run(lambda g: (sizes.append(len(g)), evaluate(g))[1], at_once=at_once)
    assert same(found, Evolution(**SMALL).run(evaluate))
    assert max(sizes) == (at_once or 30) and sum(sizes) == found.evaluations


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({"seed": 1}, {}, "seed=0, now seed=1"),
        ({"population": 6}, {}, "population=5, now population=6"),
        ({}, {"start": [[0] * 6]}, "start="),
        ({"seed": 1}, {"depends": {"limit": 8, "seed": 0}}, "depends.seed=None, now depends.seed=0"),
        ({}, {"depends": {"limit": 9}}, "depends.limit=8, now depends.limit=9"),
    ],
)
def test_a_ledger_of_another_search_is_refused(tmp_path: Path, changes: Any, more: Any, says: str) -> None:
    path, asked = tmp_path / "evolution.jsonl", {**SMALL, "population": 5, "generations": 1}
    Evolution(**asked).run(weighed(0, 6, 3), ledger=path, depends={"limit": 8})
    with pytest.raises(StaleRun, match=says):
        Evolution(**{**asked, **changes}).run(weighed(0, 6, 3), ledger=path, **{"depends": {"limit": 8}, **more})


def test_the_ledger_is_one_of_genomes_and_generations(tmp_path: Path) -> None:
    path = tmp_path / "evolution.jsonl"
    asked = Evolution(options=(np.int64(3),) * 6, objectives=("min", "min"), population=4, generations=2)
    found = asked.run(weighed(0, 6, 3), ledger=path)
    settings = {
        "options": [3] * 6, "objectives": ["min", "min"], "population": 4, "crossover": 0.9, "mutation": None,
        "seed": 0, "start": "blake2b:e4a6a0577479b2b4", "depends": {},
    }  # fmt: skip
    kept = Ledger(path, "an evolution", settings)
    assert kept["generation 1"] == found.genomes[4:].tolist()
    assert kept[" ".join(map(str, found.genomes[7]))] == found.values[7].tolist()


def test_a_ledger_that_was_edited_is_told(tmp_path: Path) -> None:
    path, asked = tmp_path / "evolution.jsonl", Evolution(**{**SMALL, "population": 4, "generations": 1})
    found = asked.run(weighed(0, 6, 3), ledger=path)
    text = path.read_text()
    path.write_text(text.replace(str(found.genomes[0].tolist()), "[0, 0, 0, 0, 0, 7]"))
    with pytest.raises(MixbitError, match=r"key 'generation 0', has \[0, 0, 0, 0, 0, 7\]: gene 5 is 7. Legal: 0 to 2"):
        asked.run(weighed(0, 6, 3), ledger=path)
    path.write_text(text.replace(str(found.values[1].tolist()), "[1.0]"))
    with pytest.raises(MixbitError, match=r"evolution.jsonl gave no table of numbers.*Legal: \(4, 2\)"):
        asked.run(weighed(0, 6, 3), ledger=path)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": (1, 1)}, r"options=\(1, 1\) leave nothing to choose. Legal: at least one gene of two"),
        ({"options": ()}, r"options=\(\) leave nothing to choose"),
        ({"options": (3, 0)}, "options=.* is illegal. Legal: a list, each a whole number from 1"),
        ({"objectives": ()}, r"objectives=\(\) are 0. Legal: one to 3"),
        ({"objectives": ("min",) * 4}, "are 4. Legal: one to 3; keep the others within limits by repair"),
        ({"objectives": ("least",)}, "Legal: a list, each 'min' or 'max'"),
        ({"population": 1}, "population=1 is illegal. Legal: a whole number from 2"),
        ({"mutation": 1.5}, "mutation=1.5 is illegal"),
    ],
)
def test_settings_that_are_not_legal(changes: Any, says: str) -> None:
    with pytest.raises(MixbitError, match=says):
        Evolution(**{**SMALL, **changes})


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ([0] * 6, r"The start is of int64 and the shape \(6,\). Legal: whole numbers, \(n, 6\)"),
        ([[0] * 5], r"shape \(1, 5\)"),
        ([[0.0] * 6], "The start is of float64"),
        ([[0] * 6, [0] * 5], "The start is of object"),
        ([[0] * 6, [0, 0, 0, 3, 0, 0]], r"has \[0, 0, 0, 3, 0, 0\]: gene 3 is 3. Legal: 0 to 2"),
        ([[-1] * 6], "gene 0 is -1"),
    ],
)
def test_a_start_that_is_not_legal(start: Any, says: str) -> None:
    with pytest.raises(MixbitError, match=says):
        Evolution(**SMALL).run(weighed(0, 6, 3), start=start)


@pytest.mark.parametrize("repaired", [[3] * 6, [0] * 5, [0.5] * 6, 0])
def test_a_repair_that_gives_what_is_not_legal(repaired: Any) -> None:
    with pytest.raises(MixbitError, match="A repaired genome .*Legal: "):
        Evolution(**SMALL).run(weighed(0, 6, 3), repair=lambda _: repaired)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_and_not_kept(tmp_path: Path, value: float) -> None:
    def evaluate(genomes: np.ndarray) -> np.ndarray:
        return np.stack([genomes[:, 0], np.where(genomes[:, 1] == 1, value, 0)], axis=1)

    path = tmp_path / "evolution.jsonl"
    with pytest.raises(MixbitError, match=rf"gave {value} as objective 1 of the genome \[., 1,.*Legal: finite numbers"):
        Evolution(**SMALL).run(evaluate, ledger=path)
    assert "$float" not in path.read_text()


@pytest.mark.parametrize("shape", [(), (30,), (30, 3), (29, 2), (2, 30)])
def test_values_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(MixbitError, match=r"shape .* for 30 genomes. Legal: \(30, 2\), a row a genome"):
        Evolution(**SMALL).run(lambda _: np.zeros(shape))


@pytest.mark.parametrize("at_once", [0, -1])
def test_at_once_is_a_count(at_once: int) -> None:
    with pytest.raises(MixbitError, match=f"at_once={at_once} is illegal. Legal: a whole number from 1"):
        Evolution(**SMALL).run(weighed(0, 6, 3), at_once=at_once)


# ------------------------------------------------------------------------------------------------- operators


def test_ranks_peel_fronts_off() -> None:
    values = np.random.default_rng(0).integers(0, 6, (30, 2)).astype(float)
    left, wanted, front = {*range(30)}, np.zeros(30, dtype=int), 0
    while left:
        best = {
            at
            for at in left
            if not any((values[o] <= values[at]).all() and (values[o] < values[at]).any() for o in left)
        }
        wanted[[*best]], left, front = front, left - best, front + 1
    assert ranks(values).tolist() == wanted.tolist()


def test_crowding_is_that_of_deb() -> None:
    values = np.array([[0.0, 8], [1, 4], [2, 3], [8, 0]])
    assert crowding(values).tolist() == [np.inf, 2 / 8 + 5 / 8, 7 / 8 + 4 / 8, np.inf]
    assert crowding(np.ones((2, 2))).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_of_equal_values_the_earlier_row_is_the_nearer_end(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 9, (60, 2)).astype(float)
    wanted = np.zeros(60)
    for column in values.T:
        order = sorted(range(60), key=column.__getitem__)
        for before, at, after in zip(order, order[1:], order[2:], strict=False):
            wanted[at] += (column[after] - column[before]) / (max(column) - min(column))
        wanted[[order[0], order[-1]]] = np.inf
    assert crowding(values) == pytest.approx(wanted)


def test_of_a_front_equal_rows_go_first_and_the_ends_stay() -> None:
    values = np.array([[0.0, 9], [0, 9], [1, 8], [2, 7], [5, 4], [9, 0]])
    assert thinned(values, 5).tolist() == [0, 2, 3, 4, 5]
    assert thinned(values, 3).tolist() == [0, 4, 5]
    assert thinned(values, 6).tolist() == [*range(6)]
    assert thinned(np.zeros((4, 2)), 3).tolist() == [0, 1, 2]


def test_the_best_fronts_survive() -> None:
    values = np.array([[4.0, 4], [0, 2], [3, 3], [2, 0], [3, 3]])
    assert survivors(values, 2).tolist() == [1, 3]
    assert survivors(values, 3).tolist() == [1, 2, 3]
    assert survivors(values, 5).tolist() == [*range(5)]


def test_parents_win_against_who_was_drawn_beside_them() -> None:
    values = np.array([[0.0, 9], [4, 4], [5, 3.5], [9, 0], [9, 9]])  # the last one is beaten, 1 and 2 are crowded
    won = np.bincount(parents(values, 10_000, np.random.default_rng(0)), minlength=5) / 10_000
    assert won[4] == pytest.approx(1 / 25, abs=0.01)  # against itself alone
    assert won[0] == pytest.approx(won[3], abs=0.02) and won[0] > won[2] > won[4]


def test_of_one_front_the_ends_win_all_but_among_themselves() -> None:
    values = np.array([[at, 9.0 - at] for at in range(10)])
    won = np.bincount(parents(values, 10_000, np.random.default_rng(0)), minlength=10) / 10_000
    assert won[0] + won[9] == pytest.approx(1 - 0.8**2, abs=0.02)


def test_children_have_genes_of_both_in_the_share_that_is_asked_for() -> None:
    zeros, ones = np.zeros((4000, 10), dtype=np.int64), np.ones((4000, 10), dtype=np.int64)
    children = crossed(zeros, ones, 0.75, np.random.default_rng(0))
    mixed = children[children.any(axis=1)]
    assert len(mixed) / 4000 == pytest.approx(0.75, abs=0.03)
    assert mixed.mean() == pytest.approx(0.5, abs=0.02)


def test_a_mutation_is_another_choice_and_reaches_all() -> None:
    options = np.array([1, 2, 5])
    parent = np.tile([0, 1, 2], (3000, 1))
    children = mutated(parent, options, 1.0, np.random.default_rng(0))
    assert (children[:, 0] == 0).all() and {*children[:, 1]} == {0, 1} and {*children[:, 2]} == {0, 1, 3, 4}
    assert (np.abs(children[:, 2] - 2) == 1).mean() == pytest.approx(3 / 4, abs=0.03)
    up, down = (children > parent).any(axis=1), (children < parent).any(axis=1)
    assert (up & ~down).mean() == pytest.approx(1 / 3 + 0, abs=0.03)  # gene 1 goes down in all of the last third
    assert (down & ~up).mean() == pytest.approx(1 / 3 + 1 / 6, abs=0.03)


def test_a_rate_is_that_of_a_gene() -> None:
    parent = np.full((2000, 10), 2)
    children = mutated(parent, np.full(10, 5), 0.2, np.random.default_rng(0))
    assert (children != parent).mean() == pytest.approx(0.2, abs=0.02)


def test_what_is_drawn_reaches_from_end_to_end() -> None:
    genomes = drawn(np.full(100, 6), 500, np.random.default_rng(0))
    levels = genomes.mean(axis=1)
    assert levels.min() < 0.5 and levels.max() > 4.5 and {*genomes.reshape(-1)} == {*range(6)}
    assert drawn(np.array([1, 3]), 50, np.random.default_rng(0))[:, 0].max() == 0


# ---------------------------------------------------------------------------------------------------- options


def found_with(**changes: Any) -> Found:
    return Evolution(**{**SMALL, "population": 10, "generations": 4, **changes}).run(weighed(0, 6, 3))


def new_genes(rate: float | None) -> float:
    """How many genes of a child no parent has, where nothing is crossed and all begin at one genome."""
    told: list[Found] = []
    asked = Evolution(
        options=(9,) * 40, objectives=("min",), population=200, generations=2, crossover=0.0, mutation=rate
    )
    asked.run(lambda genomes: np.ones((len(genomes), 1)), start=np.full((1, 40), 4), on_generation=told.append)
    first, last = told[0].genomes, told[1].genomes[200:]
    return float(np.median([(child != first).sum(axis=1).min() for child in last]))


def crossed_share(share: float) -> float:
    """Children of which a gene comes from elsewhere than the nearest parent, where mutations are rare."""
    told: list[Found] = []
    asked = Evolution(
        options=(9,) * 40, objectives=("min",), population=60, generations=2, crossover=share, mutation=0.02
    )
    asked.run(lambda genomes: np.ones((len(genomes), 1)), on_generation=told.append)
    first, last = told[0].genomes, told[1].genomes[60:]
    return float(np.mean([(child != first).sum(axis=1).min() > 8 for child in last]))


class TestEvolution(OptionCases):
    owner = Evolution
    options = fields_of(Evolution)
    rows = (
        OptionRow("options", ((3,) * 6, (1, 2, 3, 3, 3, 3)),
                  lambda v: found_with(options=v).genomes.max(axis=0).tolist(),
                  lambda a, b: a == [2] * 6 and b == [0, 1, 2, 2, 2, 2]),
        OptionRow("objectives", (("min", "min"), ("max", "min")),
                  lambda v: front_of(found_with(objectives=v, population=30, generations=20)),
                  lambda a, b: a == true_front(weighed(0, 6, 3), (3,) * 6) and b == {(106.0, 0.0)}),
        OptionRow("population", (10, 20),
                  lambda v: [len(found_with(population=v).population), found_with(population=v).evaluations],
                  lambda a, b: a == [10, 40] and b == [20, 80]),
        OptionRow("generations", (4, 7), lambda v: len(found_with(generations=v).history),
                  lambda a, b: (a, b) == (4, 7)),
        OptionRow("crossover", (0.0, 0.9), crossed_share, lambda a, b: a < 0.1 and 0.6 < b < 0.95),
        OptionRow("mutation", (None, 0.25), new_genes, lambda a, b: a <= 2 and 8 <= b <= 12),
        OptionRow("seed", (0, 1), lambda v: found_with(seed=v).genomes, unlike),
    )  # fmt: skip


def test_lists_are_taken_as_tuples() -> None:
    assert Evolution(options=[3, 3], objectives=["min"]) == Evolution(options=(3, 3), objectives=("min",))  # type: ignore[arg-type]


def test_the_same_seed_finds_the_same() -> None:
    assert same(found_with(seed=3), found_with(seed=3))
