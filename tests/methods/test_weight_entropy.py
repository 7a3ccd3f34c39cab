"""Weight entropy: histograms against counts by hand, the paper's gain, and our completion."""

from __future__ import annotations

import math
from functools import partial
from typing import NoReturn

import pytest
import torch

from mixbit.allocation import allocate
from mixbit.cost import Budget
from mixbit.errors import MixbitError
from mixbit.methods import Method, WeightEntropy
from mixbit.methods.weight_entropy import level_entropy
from mixbit.quantizers.rules import minmax
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from tests.methods import seen
from tests.tasks import tiny_task


class TestContract(MethodCases):
    def method(self, seed: int) -> Method:
        return WeightEntropy(seed=seed)

    def task(self) -> Task:
        return tiny_task()


class TestContractWithActivations(TestContract):
    def method(self, seed: int) -> Method:
        return WeightEntropy(activations=True, batch_size=16, seed=seed)


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def test_entropy_of_known_histograms() -> None:
    assert level_entropy(torch.arange(16.0)) == 4.0
    assert level_entropy(torch.zeros(5)) == 0.0
    assert level_entropy(torch.tensor([0.0, 0.0, 0.0, 1.0])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_weights_are_counted_on_the_levels_of_their_quantizer(task: Task) -> None:
    """The same histogram by hand: round to the min-max step, count."""
    scores = WeightEntropy(rule="minmax").search(task)
    weight = task.model.get_parameter("conv2.weight").detach().reshape(1, -1)
    for bits in (2, 3, 8):
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        step, _ = minmax(weight, low, high)
        levels = torch.clamp(torch.round(weight / step[:, None]), low, high).flatten().long() - low
        p = torch.bincount(levels).double() / levels.numel()
        wanted = float(-(p[p > 0] * p[p > 0].log2()).sum())
        assert scores.settings["entropy_bits"]["conv2"][str(bits)] == pytest.approx(wanted)  # type: ignore[index, call-overload]


def test_harm_is_the_entropy_lost_against_the_most_bits(task: Task) -> None:
    scores = WeightEntropy().search(task)
    entropy = scores.settings["entropy_bits"]["conv1"]  # type: ignore[index, call-overload]
    for bits, harm in scores.layers["conv1"].weight.items():
        assert harm == pytest.approx(entropy["8"] - entropy[str(bits)])  # type: ignore[index, call-overload]
    assert scores.layers["conv1"].weight[8] == 0 and set(scores.layers["conv1"].activation.values()) == {0.0}
    assert 0 < entropy["2"] <= 2 and entropy["4"] <= 4  # type: ignore[index, call-overload, operator]


def test_faithful_harm_is_the_entropy_at_the_higher_precision(task: Task) -> None:
    scores = WeightEntropy(faithful=True, bits=(4, 2)).search(task)
    for name, found in scores.layers.items():
        assert found.weight == {2: scores.settings["entropy_bits"][name]["4"], 4: 0.0}  # type: ignore[index, call-overload]
    policy, _ = allocate(task.network, scores, Budget.parse(["bitops=3x3"]))
    assert all(bits.weight_bits == bits.activation_bits for bits in policy.layers.values())


def test_scaling_weights_changes_nothing() -> None:
    task, scaled = tiny_task(), tiny_task()
    with torch.no_grad():
        scaled.model.get_parameter("conv1.weight").mul_(8)
    assert WeightEntropy().search(task).layers == WeightEntropy().search(scaled).layers


def test_activations_are_read_from_the_training_split_alone(task: Task) -> None:
    found = WeightEntropy(activations=True, batch_size=16).search(task)
    other = WeightEntropy(activations=True, batch_size=16, seed=1).search(task)
    assert found.layers["conv1"].activation[2] > 0
    assert found.layers["conv1"].activation != other.layers["conv1"].activation
    assert found.layers["conv1"].weight == other.layers["conv1"].weight
    assert not found.program.coupled and WeightEntropy().search(task).program.coupled


def test_no_data_are_read_for_weights(task: Task) -> None:
    class Unread:
        """A split that cannot be read."""

        num_classes = 3

        def batches(self, *_: object, **__: object) -> NoReturn:
            raise AssertionError("data were read")

    blind = Task(model=task.model, train=Unread(), test=task.test, network=task.network)  # type: ignore[arg-type]
    assert WeightEntropy().search(blind).layers == WeightEntropy().search(task).layers


@pytest.mark.parametrize("settings", [{"bits": (8, 4, 2)}, {"bits": (4, 2), "activations": True}])
def test_faithful_means_two_precisions_by_weights(settings: dict[str, object]) -> None:
    with pytest.raises(MixbitError, match="Give bits=4,2"):
        WeightEntropy(faithful=True, **settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------- options


SMALL = partial(WeightEntropy, bits=(4, 2), batch_size=8)
INPUTS = partial(SMALL, activations=True)


def entropies_and_harm(faithful: bool) -> tuple[dict[str, float], dict[int, float]]:
    """Entropies of the weight of `conv`, and its harm."""
    found = seen.search(SMALL(faithful=faithful))
    return found.settings["entropy_bits"]["conv"], found.layers["conv"].weight  # type: ignore[index, call-overload, return-value]


def input_entropy_by_hand(bits: int, x: torch.Tensor) -> float:
    values = seen.inputs_of("conv", x)
    levels = torch.round(values / seen.minmax_input_step("conv", bits, x)).flatten().long()
    p = torch.bincount(levels).double() / levels.numel()
    return float(-(p[p > 0] * p[p > 0].log2()).sum())


class TestWeightEntropyOptions(OptionCases):
    owner = WeightEntropy
    options = fields_of(WeightEntropy)
    rows = (
        seen.bits_row(SMALL),
        OptionRow(
            "faithful",
            (False, True),
            seen=entropies_and_harm,
            holds=lambda a, b: (
                a[1] == {4: 0.0, 2: pytest.approx(a[0]["4"] - a[0]["2"])}
                and b[1] == {4: 0.0, 2: b[0]["4"]}
                and a[0] == b[0]
            ),
            says="harm of fewer bits",
        ),
        OptionRow(
            "activations",
            (False, True),
            seen=lambda value: seen.search(SMALL(activations=value, rule="minmax", batch_size=12)),
            holds=lambda a, b: (
                a.layers["conv"].activation == {4: 0.0, 2: 0.0}
                and (a.program.coupled, b.program.coupled) == (True, False)
                and b.layers["conv"].activation[2]
                == pytest.approx(
                    input_entropy_by_hand(4, seen.images(0)) - input_entropy_by_hand(2, seen.images(0)), rel=1e-3
                )
            ),
            says="harm of inputs",
        ),
        seen.rule_row(INPUTS, "rule", "weight", of=8, per_channel=False),
        seen.rule_row(INPUTS, "rule", "activation", of=8),
        OptionRow(
            "batch_size",
            (8, 3),
            seen=lambda value: set(seen.model_calls(INPUTS(batch_size=value))),
            holds=lambda a, b: (a, b) == ({8}, {3}),
            says="inputs that are read",
        ),
        seen.first_last_row(SMALL),
        seen.seed_row(INPUTS, images_used=8),
    )


def test_defaults_are_those_that_are_documented() -> None:
    assert WeightEntropy() == WeightEntropy(
        bits=(8, 6, 5, 4, 3, 2), faithful=False, activations=False, rule="mse", batch_size=128, first_last=False, seed=0
    )
