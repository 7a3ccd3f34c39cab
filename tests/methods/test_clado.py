"""CLADO: the quadratic form is what was measured, its projection is convex, and without pairs it is additive."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mixbit.allocation import AllocationSettings, allocate
from mixbit.cost import Budget, LayerBits, costs
from mixbit.errors import MixbitError, StaleRun
from mixbit.methods import Clado, OneAtATime
from mixbit.methods.clado import project_psd, sensitivity_matrix
from mixbit.policy import Pairs, Program, Scores, resolve_pins
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.sensitivity.suffix import Suffix
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task

SHORT: dict[str, Any] = {"bits": (4, 2), "images": 20, "batch_size": 8, "step_images": 8}
NAMES = ("conv1", "conv2", "hidden")


class TestClado(MethodCases):
    """With inputs fixed at 3 bits."""

    def method(self, seed: int) -> Clado:
        return Clado(seed=seed, images=16, bits=(4, 3, 2), activation_bits=(3,))

    def task(self) -> Task:
        return tiny_task()


class TestCladoOfInputsToo(MethodCases):
    def method(self, seed: int) -> Clado:
        return Clado(seed=seed, images=16, bits=(4, 2), activation_bits=(4, 2))

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def loss_of(task: Task, weight_bits: tuple[int, ...], activation_bits: tuple[int, ...]) -> Any:
    """The loss of the quantized model on the 20 images, run whole."""
    x, y = next(task.train.batches(20, seed=0, shuffle=True))
    probe = Perturbation(task, weight_bits, activation_bits, x[:8])

    def loss(chosen: dict[str, LayerBits]) -> float:
        with torch.no_grad(), probe.chosen(chosen) as model:
            return float(F.cross_entropy(model(x), y))

    return loss


def predicted(scores: Scores, policy: dict[str, LayerBits]) -> float:
    pairs = scores.program.pairs
    alone = sum(scores.harm(name, bits) for name, bits in policy.items())
    return alone + (0.0 if pairs is None else pairs.harm(policy))


def full_matrix(scores: Scores) -> np.ndarray[Any, Any]:
    """G from what the scores carry."""
    assert scores.program.pairs is not None
    matrix = np.array(scores.program.pairs.matrix)
    for at, (layer, side, bits) in enumerate(scores.program.pairs.variables):
        matrix[at, at] = 2 * getattr(scores.layers[layer], side)[bits]
    return matrix


def test_change_of_two_layers_is_predicted_as_measured(task: Task) -> None:
    """Without projection the form is exact for one and for two changes, with inputs at 8 bits throughout."""
    scores = Clado(project=False, **SHORT).search(task, quiet=True)
    loss = loss_of(task, (4, 2), (8,))
    base = {name: LayerBits(None, 8) for name in NAMES}
    assert scores.settings["base_loss"] == pytest.approx(loss(base), rel=1e-6)
    pairs = scores.program.pairs
    assert pairs is not None
    for first, second in (("conv1", "hidden"), ("conv2", "hidden"), ("conv1", "conv2")):
        both = {first: LayerBits(2, 8), second: LayerBits(4, 8)}
        rise = loss(base | both) - loss(base)
        assert predicted(scores, both) == pytest.approx(rise, abs=2e-6)
        assert pairs.harm(both) != 0


def test_inputs_have_variables_with_several_bit_widths(task: Task) -> None:
    """Our completion: also for weight and input of one layer together."""
    scores = Clado(project=False, activation_bits=(4, 2), **SHORT).search(task, quiet=True)
    loss = loss_of(task, (4, 2), (4, 2))
    for both in ({"conv1": LayerBits(2, 2)}, {"hidden": LayerBits(4, 2)}):
        assert predicted(scores, both) == pytest.approx(loss(both) - loss({}), abs=2e-6)
    together = {"conv1": LayerBits(2, None), "conv2": LayerBits(None, 2)}
    assert predicted(scores, together) == pytest.approx(loss(together) - loss({}), abs=2e-6)
    assert scores.program.pairs is not None and len(scores.program.pairs.variables) == 12


def test_base_can_be_the_quantized_network(task: Task) -> None:
    """All weights at 4 bits and one at 2, against all at 4; staying at 4 costs nothing."""
    scores = Clado(project=False, base="quantized", **SHORT).search(task, quiet=True)
    loss = loss_of(task, (4, 2), (8,))
    base = {name: LayerBits(4, 8) for name in NAMES}
    wanted = loss(base | {"conv2": LayerBits(2, 8)}) - loss(base)
    assert scores.layers["conv2"].weight[2] == pytest.approx(wanted, abs=1e-6)
    assert scores.layers["conv2"].weight[4] == 0
    policy = base | {"conv2": LayerBits(2, 8), "hidden": LayerBits(2, 8)}
    assert predicted(scores, policy) == pytest.approx(loss(policy) - loss(base), abs=2e-6)


def test_inputs_can_stay_in_float(task: Task) -> None:
    scores = Clado(diagonal=True, project=False, fix_activations=False, **SHORT).search(task, quiet=True)
    single = OneAtATime(**SHORT).search(task, quiet=True)
    for name in NAMES:
        assert scores.layers[name].weight == pytest.approx(single.layers[name].weight, abs=1e-9)
        assert scores.layers[name].activation == {8: 0.0}


def test_diagonal_is_one_at_a_time(task: Task) -> None:
    """Weights and inputs: the same harms, and no pairs; negative rises stay, as in the released ablation."""
    settings = SHORT | {"activation_bits": (4, 2), "diagonal": True}
    single = OneAtATime(**SHORT).search(task, quiet=True)
    raw, projected = (Clado(project=p, **settings).search(task, quiet=True) for p in (False, True))
    assert raw.program == projected.program == Program()
    for name in NAMES:
        for side in ("weight", "activation"):
            wanted = getattr(single.layers[name], side)
            for found in (raw, projected):
                assert getattr(found.layers[name], side) == pytest.approx(wanted, abs=1e-9)


def test_projection_is_positive_semi_definite(task: Task) -> None:
    raw = full_matrix(Clado(project=False, **SHORT).search(task, quiet=True))
    scores = Clado(**SHORT).search(task, quiet=True)
    matrix = full_matrix(scores)
    assert np.linalg.eigvalsh(matrix)[0] >= -1e-9
    np.testing.assert_allclose(matrix, project_psd(raw), atol=1e-9)
    assert scores.settings["smallest_eigenvalue"] == pytest.approx(np.linalg.eigvalsh(raw)[0], abs=1e-9)


def test_projection_of_random_matrices() -> None:
    """Positive semi-definite, no farther than any other such matrix, and nothing changes where nothing must."""
    rng = np.random.default_rng(0)
    for size in (1, 3, 12):
        matrix = rng.normal(size=(size, size))
        matrix += matrix.T
        found = project_psd(matrix)
        assert np.linalg.eigvalsh(found)[0] >= -1e-9 and (found == found.T).all()
        np.testing.assert_allclose(project_psd(found), found, atol=1e-9)
        other = rng.normal(size=(size, size))
        assert np.linalg.norm(found - matrix) <= np.linalg.norm(other @ other.T - matrix) + 1e-12


def test_options_of_one_side_have_no_joint_term() -> None:
    variables: Any = [("a", "weight", 2), ("a", "weight", 4), ("a", "activation", 2), ("b", "weight", 2)]
    matrix = sensitivity_matrix(variables, [[1, 4, 8], [0.5, 2, 3], [0.25, 1], [2]])
    assert matrix.tolist() == [
        [2, 0, 4 - 1 - 0.25, 8 - 1 - 2],
        [0, 1, 2 - 0.5 - 0.25, 3 - 0.5 - 2],
        [2.75, 1.25, 0.5, 1 - 0.25 - 2],
        [5, 0.5, -1.25, 4],
    ]


def test_zero_joint_terms_are_the_additive_program(task: Task) -> None:
    scores = Clado(activation_bits=(3,), project=False, **SHORT | {"bits": (4, 3, 2)}).search(task, quiet=True)
    pairs = scores.program.pairs
    assert pairs is not None
    size = len(pairs.variables)
    zero = Program(pairs=Pairs(pairs.variables, tuple((0.0,) * size for _ in range(size))))
    for text in ("bitops=3x3", "weight-bytes=10x"):
        budget = Budget.parse([text])
        (additive, one), (quadratic, two) = (
            # Curves that are not monotone stay so with pairs, and must here for the two to be the same program.
            allocate(task.network, replace(scores, program=program), budget, AllocationSettings(repair="none"))
            for program in (Program(), zero)
        )
        assert one.objective == pytest.approx(two.objective, abs=1e-12)
        assert additive.layers == quadratic.layers


def test_the_policy_is_the_best_of_all(task: Task) -> None:
    """27 policies within the budget or not: allocation finds the one whose quadratic harm is the least."""
    scores = Clado(activation_bits=(3,), **SHORT | {"bits": (4, 3, 2)}).search(task, quiet=True)
    budget = Budget.parse(["bitops=3x3"])
    policy, _ = allocate(task.network, scores, budget)
    found = {name: policy.layers[name] for name in NAMES}
    limits = budget.resolve(task.network, resolve_pins(task.network))
    harms = []
    for widths in product((4, 3, 2), repeat=3):
        other = {name: LayerBits(w, 3) for name, w in zip(NAMES, widths, strict=True)}
        try:
            budget.check(costs(task.network, policy.layers | other), limits)
        except MixbitError:
            continue
        harms.append(predicted(scores, other))
    assert len(harms) > 3
    assert predicted(scores, found) == pytest.approx(min(harms), abs=1e-9)


def test_passes_with_and_without_cache(task: Task) -> None:
    settings = Clado(**SHORT).search(task, quiet=True).settings
    macs = {layer.name: layer.macs for layer in task.network.layers}
    total, order = sum(macs.values()), list(macs)
    share = {n: sum(macs[m] for m in order[order.index(n) :]) / total for n in NAMES}
    pairs = 4 * (share["conv2"] + 2 * share["hidden"])
    passes: Any = settings["passes"]
    # Float outputs and the base, 6 single choices, 12 pairs of different layers.
    assert passes["without_cache"] == 2 + 6 + 12
    assert passes["with_cache_equivalents"] == pytest.approx(2 + 2 * sum(share.values()) + pairs, abs=1e-3)
    assert passes["with_cache_equivalents"] < 0.9 * passes["without_cache"]


def test_divergence_measures_from_the_float_network(task: Task) -> None:
    scores = Clado(measure="kl", activation_bits=(2,), diagonal=True, project=False, **SHORT).search(task, quiet=True)
    assert isinstance(scores.settings["base_loss"], float) and scores.settings["base_loss"] > 1e-6  # inputs at 2 bits


def test_a_killed_search_goes_on(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Clado(**SHORT).search(task, quiet=True)
    calls, run = 0, Suffix.run

    def dies(self: Suffix, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Suffix, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        Clado(**SHORT).search(task, run=tmp_path, quiet=True)
    after = Clado(**SHORT).search(task, run=tmp_path, quiet=True)
    assert after.layers == wanted.layers and after.program == wanted.program
    with pytest.raises(StaleRun, match="base='float'"):
        Clado(base="quantized", **SHORT).search(task, run=tmp_path, quiet=True)


def test_threads_do_not_change_the_scores(task: Task) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(full_matrix(Clado(**SHORT).search(task, quiet=True)))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"base": "int8"}, r"base='int8' is illegal.*'float' or 'quantized'"),
        ({"bits": ()}, r"bits=\[\] is no list of candidates"),
        ({"activation_bits": ()}, r"bits=\[\] is no list of candidates"),
        ({"measure": "mse"}, r"measure='mse' is illegal.*'loss' or 'kl'"),
        ({"images": -1}, r"images=-1 is illegal. Legal: a whole number from 1"),
    ],
)
def test_illegal_settings_are_errors(task: Task, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        Clado(**wrong).search(task, quiet=True)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- options


SMALL = partial(Clado, bits=(4, 2), images=8, batch_size=8, step_images=2)
SINGLE = partial(SMALL, diagonal=True)


def base_loss(**settings: Any) -> float:
    """Loss of all images in the base state."""
    found = seen.scores(Clado(**{"bits": (4, 2), "images": 12, "step_images": 2, "diagonal": True} | settings))
    return float(found.settings["base_loss"])  # type: ignore[arg-type]


def loss_at(bits: LayerBits) -> Any:
    """The same of the whole network with both searched layers at these bits."""
    chosen = dict.fromkeys(seen.SEARCHED, bits)
    return pytest.approx(seen.float_loss(chosen, *seen.labelled(), step_images=2), rel=1e-5)


def nearest_psd(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Without negative eigenvalues: half of the matrix and its absolute value, `(A + sqrt(A'A)) / 2`."""
    from scipy.linalg import polar

    return np.asarray((matrix + polar(matrix)[1]) / 2)


class TestCladoOptions(OptionCases):
    owner = Clado
    options = fields_of(Clado)
    rows = (
        seen.bits_row(SMALL, sides=("weight",)),
        OptionRow(
            "activation_bits",
            ((8,), (4, 2)),
            seen=lambda value: seen.scores(SMALL(activation_bits=value)),
            holds=lambda a, b: (
                [len(one.program.pairs.variables) for one in (a, b)] == [4, 8]
                and [set(one.activation) for one in (*a.layers.values(), *b.layers.values())]
                == [{8}] * 2 + [{4, 2}] * 2
            ),
            says="variables",
        ),
        OptionRow(
            "fix_activations",
            (True, False),
            seen=lambda value: base_loss(activation_bits=(2,), fix_activations=value),
            holds=lambda a, b: a == loss_at(LayerBits(None, 2)) and b == loss_at(LayerBits(None, None)) and a != b,
            says="loss in the base state",
        ),
        OptionRow(
            "base",
            ("float", "quantized"),
            seen=lambda value: base_loss(base=value, activation_bits=(4, 2)),
            holds=lambda a, b: a == loss_at(LayerBits(None, None)) and b == loss_at(LayerBits(4, 4)) and a != b,
            says="loss in the base state",
        ),
        seen.images_row(SMALL, calls=1 + 4 + 4),  # the base, two widths of two layers, and their pairs
        OptionRow(
            "measure",
            ("loss", "kl"),
            seen=lambda value: base_loss(measure=value, fix_activations=False),
            holds=lambda a, b: a == loss_at(LayerBits(None, None)) and b == pytest.approx(0, abs=1e-12),
            says="loss in the base state",
        ),
        OptionRow(
            "project",
            (False, True),
            seen=lambda value: full_matrix(seen.scores(SMALL(project=value))),
            holds=lambda raw, found: (
                np.linalg.eigvalsh(raw)[0] < -1e-4 and np.allclose(found, nearest_psd(raw), atol=1e-6)
            ),
            says="the nearest convex form",
        ),
        OptionRow(
            "diagonal",
            (False, True),
            seen=lambda value: seen.scores(SMALL(diagonal=value, project=False)),
            holds=lambda a, b: a.program.pairs is not None and b.program.pairs is None and a.layers == b.layers,
            says="pairs",
        ),
        seen.batch_size_row(SINGLE),
        seen.cache_row(SINGLE),
        seen.per_channel_row(SINGLE),
        seen.rule_row(partial(SINGLE, activation_bits=(4, 2)), "rule", "weight", of=2),
        seen.rule_row(partial(SINGLE, activation_bits=(4, 2)), "rule", "activation", of=2),
        seen.step_images_row(partial(SINGLE, activation_bits=(4, 2)), "step_images"),
        seen.first_last_row(SINGLE),
        seen.seed_row(SINGLE, images_used=2),
    )


def test_what_is_reported_is_of_the_matrix_as_measured(task: Task) -> None:
    """Both ends of the spectrum before projection."""
    raw = full_matrix(Clado(project=False, **SHORT).search(task, quiet=True))
    settings = Clado(**SHORT).search(task, quiet=True).settings
    ends = np.linalg.eigvalsh(raw)[[0, -1]]
    assert [settings["smallest_eigenvalue"], settings["largest_eigenvalue"]] == pytest.approx(list(ends), abs=1e-9)


def test_defaults_are_those_that_are_documented() -> None:
    assert Clado() == Clado(
        bits=(8, 4, 2),
        activation_bits=(8,),
        fix_activations=True,
        base="float",
        images=1024,
        measure="loss",
        project=True,
        diagonal=False,
        batch_size=128,
        cache_mib=1024,
        per_channel=True,
        rule="mse",
        step_images=32,
        first_last=False,
        seed=0,
    )
