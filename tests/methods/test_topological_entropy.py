"""GMPQ-TE as a method: what it measures, its programs, its fallbacks, and bad input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixbit.allocation import allocate
from mixbit.cost import Budget
from mixbit.data import TensorSplit
from mixbit.errors import MixbitError
from mixbit.methods import Method, TopologicalEntropy
from mixbit.methods.topological_entropy import _running_means
from mixbit.policy import Scores
from mixbit.task import Task
from mixbit.testing.methods import MethodCases
from mixbit.topology import birth_times, channel_entropies, lattice_birth_times, layer_entropy
from tests.tasks import Net, tiny_task


def short(**settings: Any) -> TopologicalEntropy:
    return TopologicalEntropy(**{"images": 16, **settings})


def details(scores: Scores) -> dict[str, Any]:
    found = scores.settings["topological_entropy"]
    assert isinstance(found, dict)
    return found


def random_task(model: nn.Module, *shape: int, labels: Sequence[int] = (), samples: int = 48) -> Task:
    """Random images of two classes, in turn unless labels are given."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 255, (samples, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    wanted = torch.tensor(labels) if labels else torch.arange(samples) % 2
    split = TensorSplit(pixels, wanted, num_classes=2, mean=(0.5,) * shape[0], std=(0.25,) * shape[0])
    return Task(model=model, train=split, test=split)


def net(*middle: nn.Module, channels: int = 3, width: int = 3) -> nn.Module:
    """The searched layers between a first and a last one."""
    return nn.Sequential(
        nn.Conv2d(channels, 3, 3, padding=1),
        nn.ReLU(),
        *middle,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 2),
    )


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


class TestTopologicalEntropy(MethodCases):
    def method(self, seed: int) -> Method:
        return short(seed=seed)

    def task(self) -> Task:
        return tiny_task()


class TestTwoVariables(TestTopologicalEntropy):
    def method(self, seed: int) -> Method:
        return short(seed=seed, coupled=False, label="mixed")


class TestPixels(TestTopologicalEntropy):
    def method(self, seed: int) -> Method:
        return short(seed=seed, graph="grid", min_size=4)


def maps_of_conv2(task: Task) -> Tensor:
    """After batch norm and ReLU, on the first 16 images of label 0."""
    model = task.model.eval()
    assert isinstance(model, Net)
    images = torch.cat([x[y == 0] for x, y in task.train.batches(64)])[:16]
    with torch.no_grad():
        maps = torch.relu(model.bn1(model.conv1(torch.relu(model.bn0(model.stem(images))))))
        return torch.relu(model.bn2(model.conv2(maps)))


def test_entropy_is_that_of_the_maps_by_hand(task: Task) -> None:
    maps = maps_of_conv2(task)
    scores = short().search(task, quiet=True)
    row = next(one for one in details(scores)["layers"] if one["layer"] == "conv2")
    assert row["te"] == pytest.approx(layer_entropy(channel_entropies(birth_times(maps.numpy()))))
    assert row["after"] == ["batch_norm", "relu"] and row["size"] == 6 and row["channels"] == 6
    assert details(scores)["label"] == 0
    assert scores.layers["conv2"].weight[3] == pytest.approx(row["te"] * 4.0**-3)


def test_entropy_of_pixels_by_hand(task: Task) -> None:
    """The default stays rows and columns; the control is of the same reading."""
    births = lattice_birth_times(maps_of_conv2(task).numpy())
    scores = short(graph="grid").search(task, quiet=True)
    row = next(one for one in details(scores)["layers"] if one["layer"] == "conv2")
    assert row["te"] == pytest.approx(layer_entropy(channel_entropies(births)))
    assert scores.settings["graph"] == "grid" and row["shape"] == [6, 6]
    plain = short().search(task, quiet=True)
    other = next(one for one in details(plain)["layers"] if one["layer"] == "conv2")
    assert plain.settings["graph"] == "unit"
    assert other["te"] != row["te"] and other["null"] != row["null"]


def test_batches_do_not_change_the_result_but_the_memory(task: Task) -> None:
    small, large = (short(batch_size=size).search(task, quiet=True) for size in (3, 16))
    assert small.layers == large.layers
    assert details(small)["maps"] == details(large)["maps"] == 16 * (4 + 6)
    assert (details(small)["map_bytes_peak"], details(large)["map_bytes_peak"]) == (3 * 6 * 36 * 4, 16 * 6 * 36 * 4)


def test_layers_without_a_map_fall_back_and_are_listed(task: Task) -> None:
    scores = short().search(task, quiet=True)
    rows = {one["layer"]: one["te"] for one in details(scores)["layers"]}
    assert list(rows) == ["conv1", "conv2"]
    assert details(scores)["fallback"] == [
        "hidden: its output (5,) has no two-dimensional map; it got the median of the others"
    ]
    assert scores.layers["hidden"].weight[2] == pytest.approx(np.median(list(rows.values())) / 16)


def test_fallback_to_eight_bits(task: Task) -> None:
    scores = short(fallback="eight").search(task, quiet=True)
    assert scores.layers["hidden"].weight == scores.layers["hidden"].activation == {8: 0.0}
    policy, _ = allocate(task.network, scores, Budget.parse(["weight-bytes=6x"]))
    assert policy.layers["hidden"].weight_bits == policy.layers["hidden"].activation_bits == 8


def test_program_of_the_paper_is_linear(task: Task) -> None:
    scores = short(program="paper").search(task, quiet=True)
    te = details(scores)["layers"][0]["te"]
    assert [scores.layers["conv1"].weight[b] for b in (8, 5, 2)] == pytest.approx([0, 3 * te, 6 * te])
    assert set(scores.layers["conv1"].activation.values()) == {0.0}
    assert scores.program.coupled and not scores.program.box


def test_program_of_ompq_takes_the_mean_to_the_end(task: Task) -> None:
    paper, ompq = (short(program=name).search(task, quiet=True) for name in ("paper", "ompq"))
    given = [one.weight[7] for one in paper.layers.values()]
    found = [one.weight[7] for one in ompq.layers.values()]
    assert found == pytest.approx([sum(given[at:]) / len(given[at:]) for at in range(len(given))])
    assert ompq.program.box and ompq.program.coupled
    assert _running_means({"a": 1.0, "b": None, "c": 3.0}) == {"a": 2.0, "b": None, "c": 3.0}


@pytest.mark.parametrize("program", ["concave", "paper", "ompq"])
def test_weights_and_activations_have_one_bit_width(task: Task, program: str) -> None:
    scores = short(program=program).search(task, quiet=True)
    policy, _ = allocate(task.network, scores, Budget.parse(["weight-bytes=7x"]))
    free = [policy.layers[name] for name in scores.layers]
    assert all(bits.weight_bits == bits.activation_bits for bits in free)
    assert len({bits.weight_bits for bits in free}) > 1


def test_two_variables_halve_the_harm(task: Task) -> None:
    one, two = (short(coupled=coupled).search(task, quiet=True) for coupled in (True, False))
    assert not two.program.coupled
    for name, layer in one.layers.items():
        assert two.layers[name].weight == two.layers[name].activation
        assert two.layers[name].weight[3] == pytest.approx(layer.weight[3] / 2)


def test_isotonic_order_is_that_of_the_entropies(task: Task) -> None:
    scores = short(isotonic=True).search(task, quiet=True)
    rows = sorted(details(scores)["layers"], key=lambda one: -one["te"])
    assert scores.program.order == tuple(one["layer"] for one in rows)  # "hidden" has none
    policy, _ = allocate(task.network, scores, Budget.parse(["bitops=4x4"]))
    bits = [policy.layers[name].weight_bits or 32 for name in scores.program.order]
    assert bits == sorted(bits, reverse=True)


def test_control_by_noise(task: Task) -> None:
    rows = details(short().search(task, quiet=True))["layers"]
    assert all(one["normalised"] == pytest.approx(one["te"] - one["null"]) and one["null"] > 1 for one in rows)
    assert details(short(seed=1).search(task, quiet=True))["layers"][0]["null"] != rows[0]["null"]


def test_normalised_scores_are_not_below_zero(task: Task) -> None:
    scores = short(normalise=True).search(task, quiet=True)
    for row in details(scores)["layers"]:
        assert scores.layers[row["layer"]].weight[2] == pytest.approx(max(row["normalised"], 0) / 16)
    below = {one["layer"] for one in details(scores)["layers"] if one["normalised"] < 0}
    assert set(details(scores)["below_noise"]) == below


def test_options_reach_the_entropy(task: Task) -> None:
    def entropies(**settings: Any) -> list[float]:
        return [one["te"] for one in details(short(**settings).search(task, quiet=True))["layers"]]

    plain = entropies()
    for name, value in {
        "missing": "bin0",
        "layer_weight": "mean",
        "v_max": 7,
        "miller_madow": True,
        "map_of": "output",
        "label": 1,
    }.items():
        assert entropies(**{name: value}) != plain, name


def test_own_outputs_are_named(task: Task) -> None:
    rows = details(short(map_of="output").search(task, quiet=True))["layers"]
    assert [(one["tensor"], one["after"]) for one in rows] == [("conv1", []), ("conv2", [])]


def test_resized_images_have_larger_maps(task: Task) -> None:
    assert {one["size"] for one in details(short(resize=12).search(task, quiet=True))["layers"]} == {12}


def test_mixed_images_are_drawn_by_the_seed(task: Task) -> None:
    one, same, other = (short(label="mixed", seed=seed).search(task, quiet=True) for seed in (0, 0, 1))
    assert one.layers == same.layers != other.layers
    assert details(one)["label"] == "mixed"


# ------------------------------------------------------------------------------------------------- transformers


class Tokens(nn.Module):
    """Patches of 2x2 as tokens through a transformer layer, with a class token in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 2, 2)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.layer(x)[:, 0])  # type: ignore[no-any-return]


@pytest.mark.parametrize(("class_token", "size"), [(True, 6), (False, 5)])
def test_tokens_lie_on_a_grid(class_token: bool, size: int) -> None:
    """26 tokens need a side of 6, the 25 patches one of 5."""
    task = random_task(Tokens(), 1, 10, 10)
    scores = short(class_token=class_token).search(task, quiet=True)
    rows = details(scores)["layers"]
    assert [(one["layer"], one["size"], one["channels"]) for one in rows] == [
        ("layer.self_attn.in_proj", size, 24),
        ("layer.self_attn.out_proj", size, 8),
        ("layer.linear1", size, 12),
        ("layer.linear2", size, 8),
    ]
    assert rows[2]["after"] == ["relu"]


def test_tokens_are_pixels_where_they_fill_a_square() -> None:
    """25 patches do; 26 tokens in rows of six would set patches beside strangers."""
    task = random_task(Tokens(), 1, 10, 10)
    rows = details(short(graph="grid", class_token=False).search(task, quiet=True))["layers"]
    assert [one["shape"] for one in rows] == [[5, 5]] * 4
    with pytest.raises(MixbitError, match="26 tokens fill no square lattice; class_token=False leaves the first out"):
        short(graph="grid").search(task, quiet=True)


def test_padding_of_tokens_is_an_option() -> None:
    task = random_task(Tokens(), 1, 10, 10)
    zero, same, absent = (
        [one["te"] for one in details(short(pad=pad).search(task, quiet=True))["layers"]]
        for pad in (None, "zero", "absent")
    )
    assert zero == same != absent


# ---------------------------------------------------------------------------------------------------- bad input


def test_too_few_images_of_a_label() -> None:
    task = random_task(net(nn.Conv2d(3, 3, 1)), 3, 6, 6, labels=[0] * 40 + [1] * 8)
    with pytest.raises(MixbitError, match="8 images of label 1, images=16 were asked for"):
        short(label=1).search(task, quiet=True)
    assert details(short(label=0).search(task, quiet=True))["label"] == 0
    with pytest.raises(MixbitError, match="no class of the training split has 128 images; label 0 has most, 40"):
        TopologicalEntropy().search(task, quiet=True)
    with pytest.raises(MixbitError, match="has 48 images, images=128 were asked for"):
        TopologicalEntropy(label="mixed").search(task, quiet=True)
    with pytest.raises(MixbitError, match="label is 2. Legal: 0 to 1"):
        short(label=2).search(task, quiet=True)


def test_the_first_class_with_enough_images_is_taken() -> None:
    task = random_task(net(nn.Conv2d(3, 3, 1)), 3, 6, 6, labels=[0] * 8 + [1] * 40)
    assert details(short().search(task, quiet=True))["label"] == 1


def test_splits_without_stored_labels_are_counted(task: Task) -> None:
    class Plain:
        """What a `Split` must have, and no more."""

        num_classes = 3

        def batches(self, *args: Any, **kwargs: Any) -> Any:
            return task.train.batches(*args, **kwargs)

    plain = Task(model=task.model, train=Plain(), test=task.test, network=task.network)  # type: ignore[arg-type]
    assert short(label=1).search(plain, quiet=True).layers == short(label=1).search(task, quiet=True).layers


@pytest.mark.parametrize(
    ("graph", "reason"), [("unit", "one row or column has no circle"), ("grid", "fewer than min_size=5 pixels a side")]
)
def test_one_pixel_maps_fall_back(graph: str, reason: str) -> None:
    model = net(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1))
    scores = short(graph=graph).search(random_task(model, 3, 6, 6), quiet=True)
    (note,) = details(scores)["fallback"]
    assert note.startswith(f"4: its maps are 1x1: {reason}")


def test_small_maps_fall_back() -> None:
    model = net(nn.Conv2d(3, 3, 1), nn.MaxPool2d(2), nn.Conv2d(3, 3, 1))
    task = random_task(model, 3, 8, 8)
    assert (
        "its maps are 4x4: fewer than min_size=5 vertices" in details(short().search(task, quiet=True))["fallback"][0]
    )
    assert details(short(min_size=4).search(task, quiet=True))["fallback"] == []


def test_no_map_at_all_is_an_error() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(MixbitError, match="none of 1 layers has a map that can be scored; layer '2'"):
        short().search(random_task(model, 3, 2, 2), quiet=True)


def test_maps_that_are_not_square() -> None:
    scores = short().search(random_task(net(nn.Conv2d(3, 3, 1)), 3, 6, 10), quiet=True)
    (row,) = details(scores)["layers"]
    assert row["size"] == 10 and row["births"] > 0


def test_pixels_of_maps_that_are_not_square() -> None:
    """A lattice is not padded, so its shorter side decides whether it is measured."""
    task = random_task(net(nn.Conv2d(3, 3, 1), nn.AvgPool2d((2, 1)), nn.Conv2d(3, 3, 1)), 3, 8, 12)
    found = details(short(graph="grid").search(task, quiet=True))
    assert [one["shape"] for one in found["layers"]] == [[8, 12]] and found["layers"][0]["births"] > 0
    assert found["fallback"] == [
        "4: its maps are 4x12: fewer than min_size=5 pixels a side; it got the median of the others"
    ]
    both = details(short(graph="grid", min_size=4).search(task, quiet=True))
    assert [one["shape"] for one in both["layers"]] == [[8, 12], [4, 12]]


@pytest.mark.parametrize("graph", ["unit", "grid"])
def test_constant_maps_are_blind(graph: str) -> None:
    """No birth at all: the most entropy that so many images can have, and every channel is told as blind."""
    model = net(nn.Conv2d(3, 3, 1))
    assert isinstance(model[2], nn.Conv2d)
    nn.init.zeros_(model[2].weight)
    (row,) = details(short(graph=graph).search(random_task(model, 3, 6, 6), quiet=True))["layers"]
    assert (row["births"], row["blind"]) == (0, 3) and row["te"] == pytest.approx(math.log(16))


@pytest.mark.parametrize("graph", ["unit", "grid"])
def test_activations_that_are_not_numbers_name_the_layer(graph: str) -> None:
    model = net(nn.Conv2d(3, 3, 1), nn.ReLU())
    assert isinstance(model[2], nn.Conv2d)
    nn.init.constant_(model[2].weight, math.nan)
    with pytest.raises(MixbitError, match="layer '2': 48 of 48 maps have values that are not a number"):
        short(graph=graph).search(random_task(model, 3, 6, 6), quiet=True)


def test_a_size_that_the_network_does_not_take() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(108, 2))
    with pytest.raises(MixbitError, match="does not take images of 9x9 .resize=9."):
        short(resize=9).search(random_task(model, 3, 6, 6), quiet=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"program": "papers"}, "program='papers' is illegal. Did you mean 'paper'"),
        ({"pad": "one"}, "pad='one' is illegal.*Legal: 'absent' or 'zero', or null"),
        ({"graph": "pixel"}, "graph='pixel' is illegal.*Legal: 'unit' or 'grid'"),
        ({"graph": "grid", "pad": "zero"}, "graph='grid' pads no map. Leave pad out"),
        ({"images": 1}, "images=1 is illegal. Legal: a whole number from 2 to"),
        ({"min_size": 3}, "min_size=3"),
        ({"program": "paper", "coupled": False}, "has one bit-width a layer"),
        ({"fallback": "eight", "bits": (6, 4)}, "needs 8 among the bits"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        TopologicalEntropy(**settings)
