"""GMPQ-TE as a method: what it measures, its programs, its fallbacks, and bad input."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar

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
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.topology import birth_times, channel_entropies, lattice_birth_times, layer_entropy, noise_births
from tests.methods import seen
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
    assert details(scores)["graph"] == "exported"
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
    three = short(first_last=True).search(task, quiet=True)
    low, middle, high = sorted(one["te"] for one in details(three)["layers"])
    assert three.layers["hidden"].weight[2] == pytest.approx(middle / 16)
    assert middle != pytest.approx((low + middle + high) / 3)


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


# ------------------------------------------------------------------------------------------------------- options

BIRTHS = ([4, 4, 3, 2], [4, 0, 0, 3])
"""Of the four images of either class."""


def circle(steps: int) -> Tensor:
    """A map of four vertices whose circle enters in so many steps, before its chords; 0: a map without an edge."""
    edges = [min(at, max(steps, 1) - 1) for at in range(4)]
    found = torch.zeros(4, 4)
    for at, step in enumerate(edges if steps else ()):
        found[at, (at + 1) % 4] = found[(at + 1) % 4, at] = 250 - 10 * step
    return found


class Drawn(nn.Module):
    """Reads its images as maps: `maps` has the image and its negative as channels, `again` the image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.maps = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
        self.again, self.head = nn.Conv2d(2, 1, 1, bias=False), nn.Linear(1, 2)
        with torch.no_grad():
            self.stem.weight.fill_(1.0)
            self.maps.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            self.again.weight.copy_(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.maps(self.stem(x)))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@cache
def drawn_task() -> Task:
    """Images of both classes in turn, whose births are `BIRTHS`."""
    pixels = torch.stack([circle(BIRTHS[label][at]) for at in range(4) for label in (0, 1)])[:, None].to(torch.uint8)
    split = TensorSplit(pixels, torch.arange(8) % 2, num_classes=2, mean=(0.0,), std=(1.0,))
    return Task(model=Drawn(), train=split, test=split)


@cache
def wide_task() -> Task:
    """Random images of 4 x 6 pixels."""
    return random_task(Drawn(), 1, 4, 6, samples=8)


DRAWN = partial(TopologicalEntropy, images=4, min_size=4, bits=(4, 2), null_channels=2, batch_size=4)


def row_of(
    layer: str, make: Callable[..., Method] = DRAWN, task: Task | None = None, **settings: Any
) -> dict[str, Any]:
    """What is reported of a layer."""
    rows = details(seen.scores(make(**settings), task or drawn_task()))["layers"]
    found: dict[str, Any] = next(one for one in rows if one["layer"] == layer)
    return found


def entropy(values: Sequence[int]) -> float:
    """In nats, of the shares of the values."""
    return -sum(n / len(values) * math.log(n / len(values)) for n in Counter(values).values())


def weighted(entropies: Sequence[float]) -> float:
    """The mean in which each entropy is weighted by itself."""
    return sum(one * one for one in entropies) / sum(entropies)


def te_row(option: str, values: tuple[Any, Any], layer: str, wanted: tuple[float, float], **settings: Any) -> OptionRow:
    """Entropies of a layer, by hand."""
    return OptionRow(
        option,
        values,
        seen=lambda value: row_of(layer, **{option: value}, **settings)["te"],
        holds=lambda a, b: (
            a != pytest.approx(b, rel=1e-3) and (a, b) == (pytest.approx(wanted[0]), pytest.approx(wanted[1]))
        ),
        says=f"entropy of {layer} with {settings}" if settings else f"entropy of {layer}",
    )


def pixels_of(task: Task, seed: int | None = None, label: int | None = None) -> np.ndarray[Any, Any]:
    """The first four images, in stored order or in that of a shuffled pass."""
    x, y = next(task.train.batches(8, seed=seed or 0, shuffle=seed is not None))
    return (x if label is None else x[y == label])[:4, 0].numpy()


def enlarged() -> float:
    """Entropy of the images of class 0 at 8 x 8, by torch's bilinear interpolation, pixels as areas."""
    x = torch.from_numpy(pixels_of(wide_task(), label=0))[:, None]
    large = nn.functional.interpolate(x, size=(8, 8), mode="bilinear", align_corners=False)[:, 0]
    return entropy(birth_times(through_again(large)).tolist())


def mixed(seed: int) -> float:
    """Entropy of the births among the first four images of a shuffled pass."""
    return entropy([birth for birth in birth_times(pixels_of(drawn_task(), seed=seed)).tolist() if birth])


H0, H1 = entropy([4, 4, 3, 2]), entropy([4, 3])
MOST = math.log(4)
"""What a channel without any birth gets of four images."""
SOFT = math.exp(H0 - MOST)


class TestTopologicalEntropyOptions(OptionCases):
    owner = TopologicalEntropy
    options = fields_of(TopologicalEntropy)
    rows = (
        seen.bits_row(DRAWN),
        te_row("images", (4, 3), "again", (H0, entropy([4, 4, 3]))),
        te_row("label", (None, 1), "again", (H0, H1)),
        OptionRow(
            "label",
            (None, "mixed"),
            seen=lambda value: (row_of("again", label=value)["te"], details(seen.scores(DRAWN(label=value)))["label"]),
            holds=lambda a, b: (
                a == (pytest.approx(H0), 0)
                and b
                == (
                    pytest.approx(mixed(0)),
                    "mixed",
                )
            ),
            says="images of all classes",
        ),
        OptionRow(
            "program",
            ("concave", "paper"),
            seen=lambda value: seen.scores(DRAWN(program=value), drawn_task()).layers["again"].weight,
            holds=lambda a, b: a == pytest.approx({4: H0 / 256, 2: H0 / 16}) and b == pytest.approx({4: 0, 2: 2 * H0}),
            says="harm",
        ),
        OptionRow(
            "program",
            ("paper", "ompq"),
            seen=lambda value: seen.scores(DRAWN(program=value), drawn_task()),
            holds=lambda a, b: (
                (a.program.box, b.program.box) == (False, True)
                and b.layers["maps"].weight[2] == pytest.approx(weighted([H0, MOST]) + H0)
                and b.layers["again"] == a.layers["again"]
            ),
            says="mean to the end",
        ),
        OptionRow(
            "coupled",
            (True, False),
            seen=lambda value: seen.scores(DRAWN(coupled=value), drawn_task()),
            holds=lambda a, b: (
                (a.program.coupled, b.program.coupled) == (True, False)
                and [(one.weight[2], one.activation[2]) for one in (a.layers["again"], b.layers["again"])]
                == [(pytest.approx(H0 / 16), 0), (pytest.approx(H0 / 32), pytest.approx(H0 / 32))]
            ),
            says="harm of both sides",
        ),
        OptionRow(
            "isotonic",
            (False, True),
            # Class 1: without its negative, the image alone has more.
            seen=lambda value: [
                seen.scores(
                    DRAWN(isotonic=value, label=label, blind="keep", layer_weight="mean"), drawn_task()
                ).program.order
                for label in (0, 1)
            ],
            holds=lambda a, b: (a, b) == ([(), ()], [("again", "maps"), ("again", "maps")]),
            says="layers by falling entropy",
        ),
        OptionRow(
            "map_of",
            ("activation", "output"),
            seen=lambda value: (row_of("maps", map_of=value)["tensor"], row_of("maps", map_of=value)["after"]),
            holds=lambda a, b: a == ("relu", ["relu"]) and b == ("maps", []),
            says="what is read",
        ),
        OptionRow(
            "graph",
            ("unit", "grid"),
            seen=lambda value: row_of("again", DRAWN, wide_task(), graph=value, missing="bin0"),
            holds=lambda a, b: (
                (a["shape"], b["shape"], b["size"]) == ([6, 6], [4, 6], 6)
                and b["te"] == pytest.approx(entropy(lattice_birth_times(pixels_of_again(wide_task())).tolist()))
            ),
            says="rows and columns, or pixels",
        ),
        te_row("missing", ("drop", "bin0"), "again", (H1, entropy([4, 0, 0, 3])), label=1),
        te_row("blind", ("sensitive", "printed"), "maps", (weighted([H0, MOST]), H0)),
        te_row("blind", ("sensitive", "keep"), "maps", (weighted([H0, MOST]), H0)),
        te_row("layer_weight", ("prop", "mean"), "maps", (weighted([H0, MOST]), (H0 + MOST) / 2)),
        te_row("layer_weight", ("prop", "softmax"), "maps", (weighted([H0, MOST]), (SOFT * H0 + MOST) / (SOFT + 1))),
        te_row("v_max", (None, 3), "again", (H0, entropy([3, 2]))),
        te_row("miller_madow", (False, True), "again", (H0, H0 + 2 / 8)),
        OptionRow(
            "pad",
            (None, "zero"),
            seen=lambda value: row_of("maps", DRAWN, wide_task(), pad=value, map_of="output", missing="bin0")["te"],
            holds=lambda a, b: a != b and (a, b) == (pytest.approx(padded(-math.inf)), pytest.approx(padded(0.0))),
            says="edges of padding",
        ),
        OptionRow(
            "normalise",
            (False, True),
            seen=lambda value: seen.scores(DRAWN(normalise=value, missing="bin0")).layers["conv"].weight[2] * 16,
            holds=lambda a, b: (
                a == pytest.approx(row_of("conv", DRAWN, seen.small_task(), missing="bin0")["te"])
                and b == pytest.approx(max(a - noise_by_hand(2, 0), 0.0))
            ),
            says="entropy beyond that of noise",
        ),
        OptionRow(
            "null_channels",
            (1, 2),
            seen=lambda value: row_of("conv", DRAWN, seen.small_task(), null_channels=value, missing="bin0")["null"],
            holds=lambda a, b: (a, b) == (pytest.approx(noise_by_hand(1, 0)), pytest.approx(noise_by_hand(2, 0))),
            says="entropy of noise",
        ),
        OptionRow(
            "batch_size",
            (4, 3),
            seen=lambda value: (
                details(seen.scores(DRAWN(batch_size=value), drawn_task()))["map_bytes_peak"],
                seen.scores(DRAWN(batch_size=value), drawn_task()).layers,
            ),
            holds=lambda a, b: (a[0], b[0]) == (4 * 2 * 16 * 4, 3 * 2 * 16 * 4) and a[1] == b[1],
            says="memory, and the same scores",
        ),
        seen.first_last_row(DRAWN),
        OptionRow(
            "seed",
            (0, 5),
            seen=lambda value: row_of("conv", DRAWN, seen.small_task(), seed=value, missing="bin0")["null"],
            holds=lambda a, b: (a, b) == (pytest.approx(noise_by_hand(2, 0)), pytest.approx(noise_by_hand(2, 5))),
            says="noise",
        ),
        OptionRow(
            "seed",
            (0, 5),
            seen=lambda value: row_of("again", seed=value, label="mixed", missing="bin0")["te"],
            holds=lambda *found: (
                found
                == tuple(
                    pytest.approx(entropy(birth_times(pixels_of(drawn_task(), seed=seed)).tolist())) for seed in (0, 5)
                )
            ),
            says="mixed images",
        ),
        OptionRow(
            "resize",
            (None, 8),
            seen=lambda value: row_of("again", DRAWN, wide_task(), resize=value, missing="bin0", label=0),
            holds=lambda a, b: (a["shape"], b["shape"]) == ([6, 6], [8, 8]) and b["te"] == pytest.approx(enlarged()),
            says="images of that size, bilinear",
        ),
    )
    elsewhere: ClassVar[Mapping[str, str]] = {
        "class_token": "tests/methods/test_topological_entropy.py::test_tokens_lie_on_a_grid",
        "min_size": "tests/methods/test_topological_entropy.py::test_small_maps_fall_back",
        "fallback": "tests/methods/test_topological_entropy.py::test_fallback_to_eight_bits",
    }


def test_shares_of_births_and_blind_channels_are_reported() -> None:
    """A channel with a birth in a third of the images is not blind; a layer's share is that of all its channels."""
    third, half = row_of("again", label=1, images=3), row_of("maps")
    assert (third["births"], third["blind"]) == (pytest.approx(1 / 3), 0)
    assert (half["births"], half["blind"]) == (0.5, 1)


def test_the_control_is_read_as_the_maps_are() -> None:
    """As many channels as the layer has, the same last step, the size without padding."""
    wide = row_of("again", DRAWN, wide_task(), missing="bin0", null_channels=5)
    assert wide["null"] == pytest.approx(entropy(noise_births((4, 6), 4, 1)[:, 0].tolist()))
    cut = row_of("conv", DRAWN, seen.small_task(), missing="bin0", v_max=6, null_channels=1)
    births = noise_births((6, 6), 4, 1)[:, 0]
    assert cut["null"] == pytest.approx(entropy(np.where(births > 6, 0, births).tolist())) and (births > 6).any()


class Last(nn.Module):
    """A linear layer over the channels of every pixel, which are last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(1, 3, 1), nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))  # type: ignore[no-any-return]


def test_channels_of_linear_layers_are_the_last_dimension() -> None:
    task = random_task(Last(), 1, 5, 5, samples=8)
    model = task.model
    assert isinstance(model, Last)
    x = torch.from_numpy(pixels_of(task, label=0))[:, None]
    with torch.no_grad():
        maps = model.mix(model.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    births = birth_times(maps.contiguous().numpy())
    row = row_of("mix", DRAWN, task, missing="bin0")
    assert row["channels"] == 2 and row["te"] == pytest.approx(weighted([entropy(c) for c in births.T.tolist()]))


def test_the_first_token_is_the_one_left_out() -> None:
    task = random_task(Tokens(), 1, 10, 10, samples=8)
    model, found = task.model.eval(), []
    assert isinstance(model, Tokens)
    handle = model.layer.linear1.register_forward_hook(lambda _m, _i, output: found.append(output.detach()))
    model(torch.from_numpy(pixels_of(task, label=0))[:, None])
    handle.remove()
    tokens = found[0].movedim(-1, 1)[..., 1:].contiguous().numpy()
    births = birth_times(tokens.reshape(4, 12, 5, 5))
    row = row_of("layer.linear1", DRAWN, task, missing="bin0", map_of="output", class_token=False)
    assert row["te"] == pytest.approx(weighted([entropy(column) for column in births.T.tolist()]))


def through_again(x: Tensor) -> np.ndarray[Any, Any]:
    """`again` after its ReLU (images, h, w): the image where it is not below zero."""
    return torch.relu(x).numpy()


def pixels_of_again(task: Task) -> np.ndarray[Any, Any]:
    return through_again(torch.from_numpy(pixels_of(task, label=0)))


def padded(fill: float) -> float:
    """Entropy of maps of 4 x 6 and of their negatives, with two rows added below."""
    x = pixels_of(wide_task(), label=0)
    maps = (np.pad(one, ((0, 0), (0, 2), (0, 0)), constant_values=fill) for one in (x, -x))
    return weighted([entropy(birth_times(one).tolist()) for one in maps])


def noise_by_hand(channels: int, seed: int) -> float:
    """Images without a birth are a value of their own."""
    columns = noise_births((6, 6), 4, channels, seed=seed).T.tolist()
    return weighted([entropy(column) for column in columns])


def test_defaults_are_those_that_are_documented() -> None:
    assert TopologicalEntropy() == TopologicalEntropy(
        bits=(8, 7, 6, 5, 4, 3, 2),
        images=128,
        label=None,
        program="concave",
        coupled=True,
        isotonic=False,
        map_of="activation",
        graph="unit",
        missing="drop",
        blind="sensitive",
        layer_weight="prop",
        v_max=None,
        miller_madow=False,
        pad=None,
        class_token=True,
        normalise=False,
        min_size=5,
        fallback="median",
        resize=None,
        null_channels=16,
        batch_size=32,
        first_last=False,
        seed=0,
    )
