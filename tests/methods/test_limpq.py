"""LIMPQ: the joint step does what the released code does, and a search gives scores for every searched layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit.allocation import allocate
from mixbit.cost import Budget
from mixbit.errors import MixbitError
from mixbit.methods import Limpq, LimpqInit, Method
from mixbit.methods.limpq import _JointStep, calibrate_indicators, prepare, read_indicators
from mixbit.policy import Scores
from mixbit.quantization import quantized_layers
from mixbit.sensitivity.perturbation import searched_layers
from mixbit.supernet import SwitchableBatchNorm, Uniform, make_switchable, select
from mixbit.task import Loss, Task, cross_entropy
from mixbit.testing.methods import MethodCases
from mixbit.testing.options import OptionCases, OptionRow, fields_of
from mixbit.testing.steps import StepCases
from mixbit.training import Step, StepContext
from mixbit.training._optim import make_optimizer, set_rates
from tests import ranks_script
from tests.methods import seen
from tests.tasks import tiny_task


class TestLimpqContract(MethodCases):
    def method(self, seed: int) -> Method:
        return Limpq(epochs=1, batch_size=32, fraction=1.0, seed=seed)

    def task(self) -> Task:
        return tiny_task()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task()


def blended(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """A loss that takes a smoothing."""
    return F.mse_loss(outputs, (1 - label_smoothing) * targets)


def regression(loss: Loss) -> Task:
    data = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(2)]
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 1))
    return Task(model=model, train=data, test=data, loss=loss)


def joint(task: Task, settings: Limpq) -> tuple[nn.Module, dict[str, str], _JointStep, StepContext]:
    model, searched = prepare(task, settings)
    after = make_switchable(model, task.example())
    calibrate_indicators(model, task, settings)
    model.train()
    context = StepContext(
        model=model, loss=lambda _x, out, y: cross_entropy(out, y), forward=lambda x: model(x), number=3, seed=0
    )
    return model, after, _JointStep(model, searched, settings), context


class TestJointStepContract(StepCases):
    """Killed between any two of its batches it goes on with the same draws."""

    settings = Limpq(bits=(4, 2), batch_size=32, epochs=2, fraction=1.0)
    config = settings.training()

    def model(self) -> nn.Module:
        return joint(tiny_task(), self.settings)[0]

    def step(self, model: nn.Module) -> Step:
        return _JointStep(model, searched_layers(tiny_task().network), self.settings)

    def data(self) -> object:
        return tiny_task().train


def test_searched_layers_and_switchable_norms(task: Task) -> None:
    """First and last layer stay float, and so does the batch norm behind the first."""
    model, after, _, _ = joint(task, Limpq())
    assert sorted(quantized_layers(model)) == ["conv1", "conv2", "hidden"]
    assert after == {"bn1": "conv1", "bn2": "conv2"}
    assert isinstance(model.get_submodule("bn1"), SwitchableBatchNorm)
    assert isinstance(model.get_submodule("bn0"), nn.BatchNorm2d)


def test_joint_step_sums_six_passes_without_division(task: Task) -> None:
    settings = Limpq()
    model, _, step, context = joint(task, settings)
    x, y = next(task.train.batches(16))
    reference = copy.deepcopy(model)
    told, losses = step(context, x, y), []
    for bits in settings.bits:
        select(reference, Uniform(bits))
        losses.append(cross_entropy(reference(x), y))
        losses[-1].backward()
    uniform = {n: p.grad.clone() for n, p in reference.named_parameters() if p.grad is not None}
    reference.zero_grad()
    twin = _JointStep(reference, [la for la in task.network.layers if la.name in quantized_layers(reference)], settings)
    twin._draw(context.number)
    losses.append(cross_entropy(reference(x), y))
    losses[-1].backward()
    assert float(told) == pytest.approx(sum(float(one.detach()) for one in losses) / 6, rel=1e-5)  # a mean is told
    for name, parameter in model.named_parameters():
        random = dict(reference.named_parameters())[name].grad
        wanted = sum(g for g in (uniform.get(name), random) if g is not None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-6)


def test_every_bit_width_gets_a_gradient(task: Task) -> None:
    model, _, step, context = joint(task, Limpq())
    step(context, *next(task.train.batches(16)))
    for layer in quantized_layers(model).values():
        assert layer.weight_quantizer is not None and layer.weight_quantizer.steps.grad is not None
        assert (layer.weight_quantizer.steps.grad != 0).all()


def test_random_pass_draws_convolutions_only_and_one_number_a_layer(task: Task) -> None:
    model, _, step, _ = joint(task, Limpq())
    select(model, Uniform(2))
    drawn = set()
    for number in range(40):
        step._draw(number)
        layers = quantized_layers(model)
        for name in ("conv1", "conv2"):
            w, a = layers[name].weight_quantizer, layers[name].input_quantizer
            assert w is not None and a is not None and w.selected == a.selected
            norm = model.get_submodule({"conv1": "bn1", "conv2": "bn2"}[name])
            assert norm.row == (6, 5, 4, 3, 2).index(w.selected)
            drawn.add(w.selected)
        hidden = layers["hidden"].weight_quantizer
        assert hidden is not None and hidden.selected == 2
    assert drawn == {2, 3, 4, 5, 6}


def test_draws_depend_on_seed_and_step_alone(task: Task) -> None:
    def bits(seed: int, number: int) -> list[int]:
        model, _, step, _ = joint(task, Limpq(seed=seed))
        step._draw(number)
        return [la.weight_quantizer.selected for la in quantized_layers(model).values() if la.weight_quantizer]

    assert bits(0, 5) == bits(0, 5)
    assert [bits(0, n) for n in range(4)] != [bits(1, n) for n in range(4)]
    assert len({tuple(bits(0, n)) for n in range(6)}) > 1


def test_independent_draws_split_weights_and_activations(task: Task) -> None:
    model, _, step, _ = joint(task, Limpq(faithful=False, independent_draws=True))
    pairs = set()
    for number in range(20):
        step._draw(number)
        hidden = quantized_layers(model)["hidden"]
        assert hidden.weight_quantizer and hidden.input_quantizer
        pairs.add((hidden.weight_quantizer.selected, hidden.input_quantizer.selected))
    assert any(w != a for w, a in pairs)


def test_batch_norm_follows_the_coarser_of_two_draws(task: Task) -> None:
    """It is the one that moves the statistics most."""
    options = (6, 5, 4, 3, 2)
    model, after, step, _ = joint(task, Limpq(faithful=False, independent_draws=True))
    coarser_weights = set()
    for number in range(20):
        step._draw(number)
        layers = quantized_layers(model)
        for norm, name in after.items():
            weight, inputs = layers[name].weight_quantizer, layers[name].input_quantizer
            assert weight is not None and inputs is not None
            assert options[int(model.get_submodule(norm).row)] == min(weight.selected, inputs.selected)  # type: ignore[call-overload]
            coarser_weights.add(weight.selected < inputs.selected)
    assert coarser_weights == {True, False}


def test_without_conv_a_random_pass_leaves_linear_layers_at_the_last_bits(task: Task) -> None:
    """Released: only convolutions are drawn, so a linear layer keeps what the last uniform pass gave it."""
    model, _, step, context = joint(task, Limpq(bits=(3, 6, 4)))
    step(context, *next(task.train.batches(8)))
    hidden = quantized_layers(model)["hidden"]
    assert hidden.weight_quantizer is not None and hidden.weight_quantizer.selected == 4


def test_search_gives_scores_of_every_searched_layer(task: Task, tmp_path: Path) -> None:
    before = copy.deepcopy(task.model.state_dict())
    settings = Limpq(epochs=1, batch_size=16, fraction=1.0)
    scores = settings.search(task, run=tmp_path, quiet=True)
    assert list(scores.layers) == ["conv1", "conv2", "hidden"] and scores.alpha == 2
    assert all(set(s.weight) == set(s.activation) == {2, 3, 4, 5, 6} for s in scores.layers.values())
    start = LimpqInit(batch_size=16).search(task)
    assert scores.layers["conv1"].weight != start.layers["conv1"].weight  # training moved it
    assert all(torch.equal(before[k], v) for k, v in task.model.state_dict().items())  # on a copy
    assert settings.search(task, quiet=True).layers == scores.layers  # same seed, same scores


def test_starting_values_have_the_ratios_of_the_formula(task: Task) -> None:
    scores = LimpqInit(batch_size=16).search(task)
    weight = scores.layers["conv1"].weight
    assert [weight[b] / weight[b + 1] for b in (2, 3, 4, 5)] == pytest.approx([2.0] * 4)
    activation = scores.layers["conv1"].activation
    assert activation[2] / activation[3] == pytest.approx(1.5275, rel=1e-3)


def test_normalised_indicators_ignore_the_scale_of_weights(task: Task) -> None:
    scaled = copy.deepcopy(task.model)
    with torch.no_grad():
        scaled.get_parameter("conv1.weight").mul_(10)
    other = Task(model=scaled, train=task.train, test=task.test, network=task.network)

    def score(t: Task, normalise: bool) -> float:
        return LimpqInit(batch_size=16, normalise=normalise).search(t).layers["conv1"].weight[4]

    assert score(other, False) == pytest.approx(10 * score(task, False))
    assert score(other, True) == pytest.approx(score(task, True))


def test_first_and_last_layer_can_be_searched(task: Task) -> None:
    assert list(LimpqInit(first_last=True, batch_size=16).search(task).layers) == [
        "stem",
        "conv1",
        "conv2",
        "hidden",
        "head",
    ]


def test_normalise_measures_the_output_projection_of_attention() -> None:
    """PyTorch's attention calls no module for it, so a hook there sees nothing."""
    torch.manual_seed(0)
    model = Attending().eval()
    x = torch.randn(8, 5, 8)
    task = Task(model=model, train=seen_split(x), test=seen_split(x))
    scores = LimpqInit(batch_size=8, first_last=True, normalise=True).search(task)
    plain = LimpqInit(batch_size=8, first_last=True).search(task)
    attention, layer = model.attention, "attention.out_proj"
    with torch.no_grad():
        q, k, v = (F.linear(model.first(task.example(8)), *weights) for weights in thirds(attention))
        heads = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v)]
        inputs = F.scaled_dot_product_attention(*heads)
    for side, scale in (("weight", attention.out_proj.weight.std()), ("activation", inputs.square().mean().sqrt())):
        ratio = getattr(plain.layers[layer], side)[4] / getattr(scores.layers[layer], side)[4]
        assert ratio == pytest.approx(float(scale.detach()), rel=1e-4)


class Attending(torch.nn.Module):
    """Attention over five tokens behind a layer, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(8, 8)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def thirds(attention: torch.nn.MultiheadAttention) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of query, key and value."""
    return list(zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True))


def seen_split(x: Tensor) -> object:
    return [(x, torch.arange(len(x)) % 3)]


def test_indicators_start_from_the_batch_that_the_training_sees_first(monkeypatch: pytest.MonkeyPatch) -> None:
    task, asked = seen.small_task(), list[dict[str, Any]]()
    batches = type(task.train).batches

    def watched(self: Any, *args: Any, **settings: Any) -> Any:
        asked.append(settings)
        return batches(self, *args, **settings)

    monkeypatch.setattr(type(task.train), "batches", watched)
    Limpq(epochs=1, fraction=0.5, batch_size=6, bits=(4, 2)).search(task, quiet=True)
    Limpq(epochs=1, fraction=1.0, batch_size=6, bits=(4, 2)).search(task, quiet=True)
    shuffled = [one.get("fraction", 1.0) for one in asked if one.get("shuffle")]
    assert set(shuffled[: len(shuffled) // 2]) == {0.5} and set(shuffled[len(shuffled) // 2 :]) == {1.0}


def test_faithful_excludes_our_options() -> None:
    with pytest.raises(MixbitError, match="faithful=True excludes independent_draws, step_lr"):
        Limpq(independent_draws=True, step_lr=0.1)


@pytest.mark.parametrize(
    ("epochs", "rates"), [(5, [0.0100, 0.0091, 0.0066, 0.0035, 0.0010]), (3, [0.0100, 0.0075, 0.0025])]
)
def test_learning_rates_are_the_released_ones(epochs: int, rates: list[float]) -> None:
    """Constant within an epoch, as the released code's scheduler moves between epochs only."""
    config = Limpq(epochs=epochs).training()
    optimizer = make_optimizer(
        nn.Linear(2, 2), name="sgd", lr=config.lr, step_lr=config.lr, momentum=0.9, weight_decay=0
    )
    found = []
    for epoch in range(epochs):
        set_rates(optimizer, epoch / epochs, floor=config.final_lr, warmup=0.0)
        found.append(optimizer.param_groups[0]["lr"])
    assert config.schedule == "epoch" and found == pytest.approx(rates, abs=6e-5)


def test_indicator_is_the_raw_step(task: Task) -> None:
    """LIMPQ saves the parameter, not its clamped value."""
    settings = LimpqInit(batch_size=16)
    model, _ = prepare(task, settings)
    calibrate_indicators(model, task, settings)
    layer = quantized_layers(model)["conv1"]
    assert layer.weight_quantizer is not None
    with torch.no_grad():
        layer.weight_quantizer.steps.fill_(3.0)
    assert read_indicators(model, task, settings, method="limpq-init").layers["conv1"].weight[4] == 3.0


def test_two_processes_find_the_scores_and_the_policy_of_one(two_processes: dict[str, Any]) -> None:
    """Gradients, initialisation and draws are those of the whole batch; a network without batch norm shows it."""
    folder, task, alone = two_processes["folder"], ranks_script.unnormed_task(), ranks_script.searched(None)
    first, second = (Scores.load(folder / f"scores-{rank}.json") for rank in (0, 1))
    assert first == second
    start = LimpqInit(bits=(4, 2), batch_size=16).search(task, quiet=True)
    for name, kind in product(alone.layers, ("weight", "activation")):
        wanted, found, begun = (getattr(one.layers[name], kind) for one in (alone, first, start))
        assert wanted.keys() == found.keys()
        # Of the way that training took it: an integer at an edge may go either way.
        assert all(abs(found[b] - wanted[b]) <= 0.05 * abs(wanted[b] - begun[b]) + 1e-6 for b in wanted), (name, kind)
    budget = Budget.parse(["bitops=3x3"])
    assert allocate(task.network, first, budget)[0].layers == allocate(task.network, alone, budget)[0].layers


@pytest.mark.parametrize(
    ("given", "loss", "used"),
    [(None, F.mse_loss, 0.0), (None, blended, 0.1), (0.0, F.mse_loss, 0.0), (0.3, blended, 0.3)],
)
def test_labels_are_smoothed_where_the_loss_can_unless_told(given: float | None, loss: Loss, used: float) -> None:
    scores = Limpq(bits=(4, 2), epochs=1, batch_size=4, label_smoothing=given).search(regression(loss), quiet=True)
    assert scores.settings["label_smoothing"] == used
    notes = [f"labels are not smoothed by 0.1, as released: the loss {loss.__name__!r} takes no label_smoothing."]
    assert scores.settings.get("notes") == (notes if given is None and not used else None)


def test_smoothing_that_was_asked_for_and_cannot_be_is_an_error() -> None:
    with pytest.raises(MixbitError, match="label_smoothing=0.1, and the loss 'mse_loss' does.*--set label_smoothing=0"):
        Limpq(bits=(4, 2), epochs=1, batch_size=4, label_smoothing=0.1).search(regression(F.mse_loss), quiet=True)


# ------------------------------------------------------------------------------------------------------- options

SMALL = partial(Limpq, bits=(4, 2), epochs=1, batch_size=4, fraction=1.0)
OURS = partial(SMALL, faithful=False)
START = partial(LimpqInit, bits=(4, 2), batch_size=4)


def indicators(method: Method) -> Tensor:
    """All of them."""
    found = seen.search(method).layers.values()
    return torch.tensor([step for one in found for side in seen.BOTH for step in getattr(one, side).values()])


def trained(method: Method, factor: float = 1.0) -> tuple[nn.Module, nn.Module]:
    """The network with indicators before and after its training, on the loss times a factor."""
    from mixbit.methods import limpq

    found: list[nn.Module] = []
    train = limpq.train

    def kept(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        found.append(copy.deepcopy(model))
        result = train(model, *args, **kwargs)
        found.append(model)
        return result

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return factor * F.cross_entropy(outputs, targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limpq, "train", kept)
        seen.search(method, seen.with_loss(loss))
    return found[0], found[1]


def moved(method: Method, which: str, factor: float = 1.0) -> float:
    """How far the farthest number of the parameters of that name moved."""
    before, after = (dict(model.named_parameters()) for model in trained(method, factor))
    return max(float((after[name] - before[name]).detach().abs().max()) for name in before if name.endswith(which))


def at_loss(method: Method, what: Callable[[Tensor, float], Any]) -> set[Any]:
    """What the calls of a loss that can smooth saw."""
    found = set()

    def loss(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        found.add(what(outputs, label_smoothing))
        return F.cross_entropy(outputs.float(), targets)

    task = seen.with_loss(loss)
    found.clear()
    seen.search(method, task)
    return found


def gradient_of_step(**settings: object) -> float:
    """Of the input's step of a linear layer at 4 bits, on one batch."""
    model, _ = prepare(seen.small_task(), SMALL(**settings))
    bank = quantized_layers(model)["hidden"].input_quantizer
    assert bank is not None
    with torch.no_grad():
        bank.steps.fill_(0.1)
    x = torch.linspace(0.0, 2.0, 9 * 3).reshape(9, 3)
    bank(x).sum().backward()
    assert bank.steps.grad is not None
    return float(bank.steps.grad.abs().max())


def refused(**settings: object) -> bool:
    """Whether one of our options is."""
    try:
        Limpq(independent_draws=True, **settings)  # type: ignore[arg-type]
    except MixbitError:
        return True
    return False


def lsq_start(layer: str, x: Tensor, bits: int) -> tuple[float, float]:
    """`max |mean +- 3 std| / 2^(b-1)` of a weight; `2 mean|x| / sqrt(qmax)` of an input that is never below zero."""
    weight = seen.small_task().model.get_parameter(f"{layer}.weight").detach()
    mean, spread = float(weight.mean()), 3 * float(weight.std())
    inputs = seen.inputs_of(layer, x)
    return (
        max(abs(mean - spread), abs(mean + spread)) / 2 ** (bits - 1),
        2 * float(inputs.abs().mean()) / (2**bits - 1) ** 0.5,
    )


def augmented(seed: int, count: int) -> Tensor:
    """The first images of a training pass."""
    x, _ = next(seen.small_task().train.batches(count, seed=seed, shuffle=True, augment=True))
    return x


def conv_of(method: Method) -> tuple[float, float]:
    """Indicators of `conv` at 4 bits: weight and input."""
    one = seen.search(method).layers["conv"]
    return one.weight[4], one.activation[4]


def scales_of_conv() -> tuple[float, float]:
    """Standard deviation of the weight, and root mean square of the input on four test images."""
    task = seen.small_task()
    inputs = seen.inputs_of("conv", task.example(4))
    return float(task.model.get_parameter("conv.weight").detach().std()), float(inputs.square().mean().sqrt())


def starts_at(seed: int, count: int) -> Any:
    return pytest.approx(lsq_start("conv", augmented(seed, count), 4), rel=1e-5)


NORMALISE = OptionRow(
    "normalise",
    (False, True),
    seen=lambda value: conv_of(START(normalise=value)),
    holds=lambda a, b: (a[0] / b[0], a[1] / b[1]) == pytest.approx(scales_of_conv(), rel=1e-4),
    says="indicators over the size of their tensors",
)


class TestLimpqInitOptions(OptionCases):
    owner = LimpqInit
    options = fields_of(LimpqInit)
    rows = (
        seen.bits_row(START),
        OptionRow(
            "alpha",
            (2.0, 0.5),
            seen=lambda value: seen.search(START(alpha=value)).alpha,
            holds=lambda a, b: (a, b) == (2.0, 0.5),
            says="weight of the weights' scores",
        ),
        OptionRow(
            "batch_size",
            (4, 9),
            seen=lambda value: conv_of(START(batch_size=value)),
            holds=lambda a, b: a == starts_at(0, 4) and b == starts_at(0, 9) and a[1] != b[1],
            says="inputs that the steps start from",
        ),
        seen.first_last_row(START),
        NORMALISE,
        OptionRow(
            "seed",
            (0, 5),
            seen=lambda value: conv_of(START(seed=value)),
            holds=lambda a, b: a == starts_at(0, 4) and b == starts_at(5, 4) and a[1] != b[1],
            says="images that the steps start from",
        ),
    )


class TestLimpqOptions(OptionCases):
    owner = Limpq
    options = fields_of(Limpq)
    rows = (
        seen.bits_row(SMALL),
        OptionRow(
            "alpha",
            (2.0, 0.5),
            seen=lambda value: seen.search(SMALL(alpha=value)).alpha,
            holds=lambda a, b: (a, b) == (2.0, 0.5),
            says="weight of the weights' scores",
        ),
        OptionRow(
            "epochs",
            (1, 2),
            seen=lambda value: len(seen.loss_calls(SMALL(epochs=value))),
            holds=lambda a, b: (a, b) == (3 * 3, 2 * 3 * 3),  # three batches, two uniform passes and a random one
            says="passes",
        ),
        OptionRow(
            "fraction",
            (1.0, 0.5),
            seen=lambda value: sum(seen.loss_calls(SMALL(fraction=value, batch_size=3))),
            holds=lambda a, b: (a, b) == (12 * 3, 6 * 3),
            says="images that are trained on",
        ),
        OptionRow(
            "batch_size",
            (4, 6),
            seen=lambda value: set(seen.loss_calls(SMALL(batch_size=value))),
            holds=lambda a, b: (a, b) == ({4}, {6}),
            says="images of a step",
        ),
        OptionRow(
            "lr",
            (1e-2, 1e-3),
            # One step of gradients that are all clipped to the same size.
            seen=lambda value: moved(SMALL(lr=value, batch_size=12, weight_decay=0.0), "head.weight", factor=1e4),
            holds=lambda a, b: a / b == pytest.approx(10, rel=1e-3),
            says="way of one step",
        ),
        OptionRow(
            "weight_decay",
            (0.0, 5.0),
            seen=lambda value: [
                moved(SMALL(weight_decay=value, batch_size=12, lr=0.01), which, factor=1e-3)
                for which in ("head.weight", "weight_quantizer.steps")
            ],
            holds=lambda a, b: b[0] > 50 * a[0] and b[1] == pytest.approx(a[1], rel=1e-3),
            says="way of weights, and not of step sizes",
        ),
        OptionRow(
            "label_smoothing",
            (None, 0.3),
            seen=lambda value: at_loss(SMALL(label_smoothing=value), lambda _out, smoothing: smoothing),
            holds=lambda a, b: (a, b) == ({0.1}, {0.3}),
            says="what the loss is given",
        ),
        OptionRow(
            "clip_value",
            (1.0, 1e-3),
            seen=lambda value: moved(
                SMALL(clip_value=value, batch_size=12, weight_decay=0.0), "head.weight", factor=1e4
            ),
            holds=lambda a, b: a / b == pytest.approx(1000, rel=1e-2),
            says="way of one step",
        ),
        seen.first_last_row(SMALL),
        OptionRow(
            "faithful",
            (True, False),
            seen=lambda value: (gradient_of_step(faithful=value), refused(faithful=value)),
            holds=lambda a, b: a[0] == b[0] and (a[1], b[1]) == (True, False),
            says="refuses our options, and changes nothing else",
        ),
        OptionRow(
            "gradient_scale",
            ("numel", "features"),
            seen=lambda value: gradient_of_step(faithful=False, gradient_scale=value),
            holds=lambda a, b: b / a == pytest.approx(3.0, rel=1e-4),  # the root of nine samples
            says="by the whole batch or by a sample",
        ),
        OptionRow(
            "independent_draws",
            (False, True),
            seen=lambda value: drawn_apart(OURS(independent_draws=value)),
            holds=lambda a, b: (a, b) == ((False, False), (True, True)),
            says="sides drawn apart, and linear layers drawn",
        ),
        NORMALISE,
        OptionRow(
            "normalise",
            (False, True),
            seen=lambda value: conv_of(OURS(normalise=value, seed=0)),
            holds=lambda a, b: (a[0] / b[0], a[1] / b[1]) == pytest.approx(scales_of_conv(), rel=1e-4),
            says="after training too",
        ),
        OptionRow(
            "step_lr",
            (None, 1e-6),
            seen=lambda value: [
                moved(OURS(step_lr=value), which, factor=1e3) for which in ("_quantizer.steps", "head.weight")
            ],
            holds=lambda a, b: b[0] < 1e-3 * a[0] and b[1] > 0.5 * a[1],
            says="way of step sizes, and not of weights",
        ),
        OptionRow(
            "precision",
            ("float32", "bf16"),
            seen=lambda value: at_loss(SMALL(precision=value), lambda outputs, _smoothing: outputs.dtype),
            holds=lambda a, b: a == {torch.float32} and torch.bfloat16 in b,
            says="what the network computes in",
        ),
        OptionRow(
            "seed",
            (0, 5),
            seen=lambda value: conv_of(SMALL(seed=value, lr=1e-9)),
            holds=lambda a, b: a == starts_at(0, 4) and b == starts_at(5, 4) and a[1] != b[1],
            says="images that the steps start from",
        ),
        OptionRow(
            "seed",
            (0, 5),
            seen=lambda value: drawn_bits(SMALL(seed=value)),
            holds=lambda a, b: a == wanted_draws(0) and b == wanted_draws(5),
            says="draws of the random pass",
        ),
    )


def drawn_bits(settings: Limpq) -> list[int]:
    """Bits of `conv` in ten random passes."""
    model, searched = prepare(seen.small_task(), settings)
    step, found = _JointStep(model, searched, settings), []
    for number in range(10):
        step._draw(number)
        bank = quantized_layers(model)["conv"].weight_quantizer
        assert bank is not None
        found.append(bank.selected)
    return found


def wanted_draws(seed: int) -> list[int]:
    """The first of a generator's numbers that the seed and the step alone decide."""
    return [
        (4, 2)[int(torch.randint(2, (2, 1), generator=torch.Generator().manual_seed(seed * 1_000_003 + number))[0, 0])]
        for number in range(10)
    ]


def drawn_apart(settings: Limpq) -> tuple[bool, bool]:
    """Whether weight and input of `conv` are ever drawn unlike, and whether `hidden` is drawn at all."""
    model, searched = prepare(seen.small_task(), settings)
    step, unlike, hidden = _JointStep(model, searched, settings), False, set()
    for number in range(20):
        step._draw(number)
        one, other = (quantized_layers(model)[name] for name in ("conv", "hidden"))
        assert one.weight_quantizer and one.input_quantizer and other.weight_quantizer
        unlike |= one.weight_quantizer.selected != one.input_quantizer.selected
        hidden.add(other.weight_quantizer.selected)
    return unlike, len(hidden) > 1


@pytest.mark.parametrize("bits", [4, 2])
def test_steps_start_from_what_layers_at_the_same_bits_give(bits: int) -> None:
    """`hidden` reads what `conv` makes of its rounded weight and input, at each bit-width by itself."""
    x, model = augmented(0, 4), seen.small_task().model
    weight, bias = (model.get_parameter(f"conv.{name}").detach() for name in ("weight", "bias"))
    weight_step, step = lsq_start("conv", x, bits)
    rounded = torch.round(weight / weight_step).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * weight_step
    inputs = torch.round(seen.inputs_of("conv", x) / step).clamp(0, 2**bits - 1) * step
    given = torch.relu(F.conv2d(inputs, rounded, bias, padding=1)).mean((2, 3))
    wanted = 2 * float(given.abs().mean()) / (2**bits - 1) ** 0.5
    assert seen.search(START()).layers["hidden"].activation[bits] == pytest.approx(wanted, rel=1e-4)


def test_parameters_without_a_gradient_stay_as_they_are() -> None:
    """Neither decay nor momentum moves them, as in the released code."""
    assert moved(SMALL(weight_decay=1.0), "head.weight", factor=0.0) == 0


def test_the_rate_ends_at_the_released_one_and_no_statistics_are_made_anew() -> None:
    for lr in (0.01, 0.5):
        config = Limpq(lr=lr).training()
        assert config.final_lr * config.lr == pytest.approx(1e-5) and config.bn_samples == 0
    assert Limpq(lr=1e-6).training().final_lr == 1


def test_the_penalty_of_the_task_is_trained_too() -> None:
    """With a loss of no gradient, one step of the penalty alone: a gradient of 1 for every weight of the last layer."""
    task = seen.small_task()
    before, after = task.model.get_parameter("head.weight").detach(), []

    def penalty(model: nn.Module, _epoch: float) -> Tensor:
        after.append(model)
        value = model.get_parameter("head.weight").sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    chosen = Task(
        model=task.model, train=task.train, test=task.test, network=task.network, penalty=penalty,
        loss=lambda outputs, _targets: 0.0 * outputs.sum(),
    )  # fmt: skip
    Limpq(bits=(4, 2), epochs=1, batch_size=12, fraction=1.0, weight_decay=0.0, lr=0.01).search(chosen, quiet=True)
    moved_by = (before - after[-1].get_parameter("head.weight")).detach()
    assert float(moved_by.min()) == pytest.approx(float(moved_by.max()), rel=1e-3) and float(moved_by.min()) >= 0.0099


@pytest.mark.parametrize(("step", "listed"), [(3.0, True), (1.0, False), (2e-5, False), (1e-6, True)])
def test_indicators_beyond_the_clamp_are_used_at_it_and_listed(task: Task, step: float, listed: bool) -> None:
    """From 1e-5 to 1."""
    settings = LimpqInit(batch_size=16)
    model, _ = prepare(task, settings)
    calibrate_indicators(model, task, settings)
    bank = quantized_layers(model)["conv1"].weight_quantizer
    assert bank is not None
    with torch.no_grad():
        bank.steps[bank.bits.index(4)].fill_(step)
    found = read_indicators(model, task, settings, method="limpq-init").settings["steps_out_of_range"]
    assert found == ([f"conv1.weight_quantizer at 4 bits: {step:.4g}"] if listed else [])
    bank.select(4)
    if step == 3.0:
        assert bank(torch.tensor([0.4, 2.6, 9.0])).tolist() == [0.0, 3.0, 7.0]  # of steps of 1


def test_defaults_are_those_that_are_documented() -> None:
    assert Limpq() == Limpq(
        bits=(6, 5, 4, 3, 2),
        alpha=2.0,
        epochs=3,
        fraction=0.5,
        batch_size=128,
        lr=0.01,
        weight_decay=2.5e-05,
        label_smoothing=None,
        clip_value=1.0,
        first_last=False,
        faithful=True,
        gradient_scale="numel",
        independent_draws=False,
        normalise=False,
        step_lr=None,
        precision="float32",
        seed=0,
    )


def test_defaults_of_the_start_are_those_that_are_documented() -> None:
    assert LimpqInit() == LimpqInit(
        bits=(6, 5, 4, 3, 2), alpha=2.0, batch_size=128, first_last=False, normalise=False, seed=0
    )
