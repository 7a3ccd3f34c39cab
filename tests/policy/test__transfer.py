"""Scores and policies move between networks of one architecture, and between no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixbit import models
from mixbit.allocation import allocate
from mixbit.cost import Budget, LayerBits, cost_table
from mixbit.errors import PolicyError
from mixbit.network import Network, capture
from mixbit.policy import Pairs, Policy, Program, transfer_policy, transfer_scores
from tests.support import chain, random_scores

SOURCE = chain((100, 1000), (200, 2000), (300, 3000), (50, 500))


def changed(network: Network, number: int, **what: object) -> Network:
    """The network with one layer that differs."""
    layers = list(network.layers)
    layers[number] = replace(layers[number], **what)  # type: ignore[arg-type]
    return replace(network, layers=tuple(layers))


@pytest.fixture
def more_classes() -> Network:
    return changed(SOURCE, 3, weight_shape=(500, 1), macs=5000)


def test_equal_networks_keep_every_score() -> None:
    scores = random_scores(SOURCE)
    moved = transfer_scores(scores, SOURCE, SOURCE)
    assert moved.layers == scores.layers and moved.settings["transfer_dropped"] == []
    assert moved.settings["transferred_from"] == SOURCE.fingerprint


def test_scores_of_a_changed_classifier_are_left_out_and_listed(more_classes: Network) -> None:
    moved = transfer_scores(random_scores(SOURCE), SOURCE, more_classes)
    moved.check(more_classes)
    assert moved.fingerprint == more_classes.fingerprint != SOURCE.fingerprint
    assert list(moved.layers) == ["l0", "l1", "l2"]
    assert moved.settings["transfer_dropped"] == ["l3: 50x1 in the source, 500x1 in the target"]


def test_transferred_scores_allocate_under_the_costs_of_the_target(more_classes: Network) -> None:
    budget = Budget.parse(["bitops=3x3"])
    policy, _ = allocate(more_classes, transfer_scores(random_scores(SOURCE), SOURCE, more_classes), budget)
    assert (
        policy.costs["bitops"] <= budget.resolve(more_classes, {"l0": LayerBits(8, 8), "l3": LayerBits(8, 8)})["bitops"]
    )
    assert policy.fingerprint == more_classes.fingerprint


def test_programs_lose_what_belongs_to_dropped_layers(more_classes: Network) -> None:
    variables = (("l1", "weight", 2), ("l3", "weight", 2), ("l2", "weight", 2))
    pairs = Pairs(variables, ((0.0, 1.0, 2.0), (1.0, 0.0, 3.0), (2.0, 3.0, 0.0)))  # type: ignore[arg-type]

    def moved(program: Program) -> Program:
        return transfer_scores(replace(random_scores(SOURCE), program=program), SOURCE, more_classes).program

    assert moved(Program(order=("l3", "l2", "l1"), coupled=True)) == Program(order=("l2", "l1"), coupled=True)
    apart = Program(order=("l2",), activation_order=("l1", "l3"))
    assert moved(apart) == Program(order=("l2",), activation_order=("l1",))
    assert moved(Program(pairs=pairs)).pairs == Pairs((variables[0], variables[2]), ((0.0, 2.0), (2.0, 0.0)))  # type: ignore[arg-type]


def test_policy_gets_fresh_costs_and_says_where_it_is_from(more_classes: Network) -> None:
    policy, _ = allocate(SOURCE, random_scores(SOURCE), Budget.parse(["bitops=3x3"]))
    moved = transfer_policy(policy, SOURCE, more_classes)
    assert moved.layers == policy.layers
    assert moved.costs == cost_table(more_classes, policy.layers) != policy.costs
    assert moved.check(more_classes) is moved
    assert moved.budget == {} and moved.allocation == {}
    assert moved.notes[:3] == [
        f"transferred from the network {SOURCE.fingerprint}",
        "there its budget was bitops=3x3",
        "l3 keeps W8A8 with another weight shape: 50x1 in the source, 500x1 in the target",
    ]
    assert "pinned: l0 W8A8, l3 W8A8" in moved.notes


def test_costs_are_in_the_counting_of_the_policy(more_classes: Network) -> None:
    source, target = (changed(net, 1, macs_limpq=7_000) for net in (SOURCE, more_classes))
    moved = transfer_policy(Policy.uniform(source, 4, 4, macs="limpq"), source, target)
    # 8 bits at both ends, and 4 between, of the target's layers in LIMPQ's counting.
    assert moved.macs == "limpq" and moved.costs["bitops"] == 64 * (1000 + 500) + 16 * (7000 + 3000)
    assert transfer_policy(Policy.uniform(source, 4, 4), source, target).costs["bitops"] != moved.costs["bitops"]


def test_macs_in_float_are_those_of_the_target() -> None:
    source, target = replace(SOURCE, other_macs=10), replace(SOURCE, other_macs=70)
    notes = transfer_policy(Policy.uniform(source, 4, 4), source, target).notes
    assert [note.split()[0] for note in notes if "MACs outside" in note] == ["70"]


@pytest.mark.parametrize(
    ("target", "what"),
    [
        (changed(SOURCE, 1, name="other"), "layer 'l1': it is called 'l1' in the source and 'other' in the target"),
        (
            changed(SOURCE, 2, weight_shape=(301, 1)),
            "layer 'l2': its weight is 300x1 in the source, 301x1",
        ),
        (changed(SOURCE, 1, groups=2), "layer 'l1': its groups, 1 against 2"),
        (changed(SOURCE, 3, kind="conv1d"), "layer 'l3': its kind, 'linear' against 'conv1d'"),
        (replace(SOURCE, layers=SOURCE.layers[:-1]), "layer 'l3': the source has 4 layers and the target 3"),
    ],
)
def test_the_first_layer_that_differs_is_named(target: Network, what: str) -> None:
    with pytest.raises(PolicyError, match=what):
        transfer_scores(random_scores(SOURCE), SOURCE, target)
    with pytest.raises(PolicyError, match=what):
        transfer_policy(Policy.uniform(SOURCE, 4, 4), SOURCE, target)


def test_scores_must_be_of_the_source() -> None:
    with pytest.raises(PolicyError, match="made for another model"):
        transfer_scores(random_scores(chain((1, 1), (2, 2))), SOURCE, SOURCE)


def test_other_channels_and_classes_on_a_real_network() -> None:
    """ResNet-20 for grey images and a hundred classes: the first and the last layer differ, the rest is the same."""
    rgb = capture(models.build("resnet20"), torch.randn(2, 3, 32, 32))
    grey = capture(models.build("resnet20", num_classes=100, in_channels=1), torch.randn(2, 1, 28, 28))
    moved = transfer_scores(random_scores(rgb), rgb, grey)
    assert [line.partition(":")[0] for line in moved.settings["transfer_dropped"]] == ["conv1", "linear"]  # type: ignore[union-attr]
    assert len(moved.layers) == 18
