"""Traces and gradients against what the definitions give when the matrices are formed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mixbit.cost import LayerBits
from mixbit.data import TensorSplit
from mixbit.data.base import Batch
from mixbit.errors import MixbitError, StaleRun
from mixbit.policy import Side
from mixbit.sensitivity.curvature import (
    Hutchinson,
    Key,
    Mean,
    Rows,
    Taps,
    _forms,
    elements,
    fisher_traces,
    listed,
    measured_noise,
    not_scored,
    sample,
    sample_gradients,
    uniform_noise,
)
from mixbit.sensitivity.perturbation import Perturbation
from mixbit.task import Task, cross_entropy
from tests.tasks import tiny_task

BOTH: tuple[Side, ...] = ("weight", "activation")


def quiet(_steps: int, _text: str) -> None: ...


class Smooth(nn.Module):
    """A convolution and two linear layers with a smooth nonlinearity, so that every block is a full Hessian."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)
        self.conv, self.hidden, self.head = nn.Conv2d(3, 2, 2), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(self.norm(self.stem(x))))
        return self.head(torch.tanh(self.hidden(x.mean((2, 3)))))  # type: ignore[no-any-return]


def task_of(model: nn.Module, *, samples: int = 12, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Task:
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 255, (samples, 1, 5, 5), generator=random).to(torch.uint8)
    split = TensorSplit(pixels, torch.arange(samples) % 3, num_classes=3, mean=(0.5,), std=(0.25,))
    return Task(model=model, train=split, test=split, loss=loss or cross_entropy)


@pytest.fixture(scope="module")
def smooth() -> Task:
    torch.manual_seed(0)
    model = Smooth()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        model.norm.running_var.fill_(0.5)
    return task_of(model)


def taps_of(task: Task, sides: Sequence[Side] = BOTH, *, first_last: bool = False) -> Taps:
    bits = (8, 4)
    perturbation = Perturbation(
        task, bits, bits, task.example(4), first_last=first_last, weight_rule="minmax", activation_rule="minmax"
    )
    return Taps(perturbation, task.loss, sides)


def traces(task: Task, taps: Taps, batches: Sequence[Batch], draws: int, *, joint: bool = False) -> dict[Key, Mean]:
    hutchinson = Hutchinson(draws=draws, tolerance=0.0, joint=joint, seed=0)
    return hutchinson.traces(taps, batches, Rows(taps.keys, None, {}), quiet)


def every_sign(taps: Taps, batches: Sequence[Batch]) -> dict[Key, float]:
    """Traces without chance: over the rows of a Hadamard matrix the mean of v . H v is the trace of H."""
    found = dict.fromkeys(taps.keys, 0.0)
    for x, y in batches:
        loss, tensors = taps.run(x, y)
        gradients = torch.autograd.grad(loss, list(tensors.values()), create_graph=True, materialize_grads=True)
        for (key, tensor), gradient in zip(tensors.items(), gradients, strict=True):
            shape = tensor.shape if key[1] == "weight" else tensor.shape[1:]
            rows = hadamard(shape.numel())
            for row in rows:
                vector = row[: shape.numel()].reshape(shape).expand_as(tensor)
                found[key] += _forms([gradient], [tensor], [vector])[0] / len(rows) / len(batches)
    return found


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix of signs with orthogonal rows, of the next power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def exact_weight_trace(task: Task, layer: str, batches: Sequence[Batch]) -> float:
    """Mean over batches of the trace of the whole Hessian, formed by automatic differentiation twice."""
    model = task.model.eval()
    name = task.network.layer(layer).parameter
    found = []
    for x, y in batches:

        def loss(weight: Tensor, x: Tensor = x, y: Tensor = y) -> Tensor:
            return task.loss(torch.func.functional_call(model, {name: weight}, (x,)), y, 0.0)

        weight = model.get_parameter(name).detach()
        with sdpa_kernel(SDPBackend.MATH):
            hessian = torch.autograd.functional.hessian(loss, weight)
        found.append(hessian.reshape(weight.numel(), -1).trace().item())  # type: ignore[no-untyped-call]
    return sum(found) / len(found)


def exact_input_trace(task: Task, layer: str, batches: Sequence[Batch]) -> float:
    """Mean over samples of the trace of the Hessian of a sample's loss in its own input of the layer."""
    model, found = task.model.eval(), []
    module = model.get_submodule(layer)
    for x, y in batches:
        for at in range(len(x)):
            seen: list[Tensor] = []
            handle = module.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))  # noqa: B023
            model(x[at : at + 1])
            handle.remove()

            def loss(value: Tensor, x: Tensor = x, y: Tensor = y, at: int = at) -> Tensor:
                hook = module.register_forward_pre_hook(lambda *_: (value,))
                try:
                    return task.loss(model(x[at : at + 1]), y[at : at + 1], 0.0)
                finally:
                    hook.remove()

            hessian = torch.autograd.functional.hessian(loss, seen[0])
            found.append(hessian.reshape(seen[0].numel(), -1).trace().item())  # type: ignore[no-untyped-call]
    return sum(found) / len(found)


def test_taps_give_the_whole_hessian_of_weights_and_inputs(smooth: Task) -> None:
    """Convolution and linear layer, behind a batch norm with fixed statistics."""
    batches, taps = sample(smooth, 8, 4, seed=0), taps_of(smooth)
    for (layer, side), trace in every_sign(taps, batches).items():
        exact = (exact_weight_trace if side == "weight" else exact_input_trace)(smooth, layer, batches)
        assert trace == pytest.approx(exact, rel=1e-4), (layer, side)


def test_a_run_leaves_nothing_on_the_model(smooth: Task) -> None:
    """A hook that stays would hold the tensors of every batch, and put a node into all that runs later."""
    taps = taps_of(smooth)
    model = taps._perturbation.model
    for x, y in sample(smooth, 8, 4, seed=0):
        taps.run(x, y)
    assert sum(len(module._forward_hooks) for module in model.modules()) == 0


class Narrow(nn.Module):
    """Three small smooth layers, of which the middle one is searched.

    Nearly orthogonal weights give it a Hessian with little off the diagonal, so that a thousand draws decide about 2 %.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(25, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        nn.init.orthogonal_(self.first.weight)
        nn.init.orthogonal_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x.flatten(1))))))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def narrow() -> Task:
    torch.manual_seed(0)
    return task_of(Narrow(), loss=squared)


def test_random_signs_come_within_two_percent(narrow: Task) -> None:
    batches, taps = sample(narrow, 12, 12, seed=0), taps_of(narrow)
    for (layer, side), mean in traces(narrow, taps, batches, 1000).items():
        exact = (exact_weight_trace if side == "weight" else exact_input_trace)(narrow, layer, batches)
        assert mean.value == pytest.approx(exact, rel=0.02), side
        assert mean.error is not None and abs(mean.value - exact) < 4 * mean.error


def test_joint_draws_find_the_same_with_more_noise(smooth: Task) -> None:
    batches, taps = sample(smooth, 12, 4, seed=0), taps_of(smooth)
    exact = every_sign(taps, batches)
    apart, joint = (traces(smooth, taps, batches, 90, joint=how) for how in (False, True))
    for key in taps.keys:
        wide, narrow = joint[key].error, apart[key].error
        assert wide is not None and narrow is not None and wide > narrow
        assert abs(joint[key].value - exact[key]) < 4 * wide


def test_piecewise_linear_blocks_have_no_negative_draw() -> None:
    """Through ReLUs a layer's block is J' H J with the loss's own positive H; the same trace comes from first
    derivatives: the sum over classes of p_c |grad log p_c|^2, the Fisher matrix of the model's own labels."""
    task = tiny_task(samples=4)
    batches, taps = sample(task, 4, 1, seed=0), taps_of(task)
    rows = Rows(taps.keys, None, {})
    found = Hutchinson(draws=120, tolerance=0.0, joint=False, seed=0).traces(taps, batches, rows, quiet)
    assert min(min(row) for row in rows.rows) > -1e-6
    own = dict.fromkeys(taps.keys, 0.0)
    for x, _ in batches:
        chances = torch.softmax(task.model.eval()(x), dim=1)[0].tolist()
        for label, chance in enumerate(chances):
            for one in sample_gradients(taps, [(x, torch.tensor([label]))]):
                for key, gradient in one.gradients.items():
                    own[key] += chance * gradient.square().sum().item() / len(batches)
    for key, mean in found.items():
        assert mean.error is not None and abs(mean.value - own[key]) < max(4 * mean.error, 1e-4 * own[key]), key


class Linear3(nn.Module):
    """A product of three matrices; the middle one is searched."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(25, 4), nn.Linear(4, 3), nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x.flatten(1))))  # type: ignore[no-any-return]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - nn.functional.one_hot(targets, outputs.shape[1])).square().sum(dim=1).mean()


def test_linear_model_with_squared_loss_has_its_closed_form() -> None:
    """y = C (W (A x)): Tr(H_W) = 2 |C|^2 E|A x|^2, and Tr(H of the input of W) = 2 |C W|^2."""
    torch.manual_seed(3)
    model = Linear3()
    task = task_of(model, loss=squared)
    batches, taps = sample(task, 12, 6, seed=0), taps_of(task)
    found = every_sign(taps, batches)
    with torch.no_grad():
        inputs = model.first(torch.cat([x for x, _ in batches]).flatten(1))
        c, w = model.last.weight, model.middle.weight
        weight = 2 * c.square().sum() * inputs.square().sum(dim=1).mean()
        given = 2 * (c @ w).square().sum()
    assert found["middle", "weight"] == pytest.approx(weight.item(), rel=1e-4)
    assert found["middle", "activation"] == pytest.approx(given.item(), rel=1e-4)


def test_a_loss_that_is_linear_has_trace_zero() -> None:
    task = task_of(Linear3(), loss=lambda out, _y: out[:, 0].mean())
    found = traces(task, taps_of(task), sample(task, 12, 6, seed=0), 3)
    assert {mean.value for mean in found.values()} == {0.0}


def test_layers_that_read_one_tensor_are_differentiated_apart() -> None:
    """The input of each of two branches is seen through that branch alone."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.left, self.right, self.last = (nn.Linear(25, 3), *(nn.Linear(3, 3) for _ in range(3)))

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1))
            return self.last(self.left(x) + self.right(x))  # type: ignore[no-any-return]

    torch.manual_seed(4)
    model = Fork()
    task = task_of(model, loss=squared)
    found = every_sign(taps_of(task), sample(task, 12, 12, seed=0))
    for name in ("left", "right"):
        wanted = 2 * (model.last.weight @ model.get_submodule(name).weight).square().sum()
        assert found[name, "activation"] == pytest.approx(wanted.item(), rel=1e-4)


def test_attention_has_second_derivatives() -> None:
    """Its fused kernels have none; packed projections are tapped like other layers."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(5, 4), nn.Linear(4, 3)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x.squeeze(1))
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))  # type: ignore[no-any-return]

    torch.manual_seed(5)
    task = task_of(Attend())
    batches, taps = sample(task, 4, 4, seed=0), taps_of(task, ("weight",))
    found = every_sign(taps, batches)
    for layer in ("attention.in_proj", "attention.out_proj"):
        exact = exact_weight_trace(task, layer, batches)
        assert found[layer, "weight"] == pytest.approx(exact, rel=1e-3, abs=1e-6)


# ---------------------------------------------------------------------------------------------- stopping, errors


def test_mean_and_standard_error() -> None:
    assert Mean.of([4.0]) == Mean(value=4.0, error=None, count=1)
    found = Mean.of([1.0, 5.0])
    assert found.value == 3 and found.error == pytest.approx(2.0)


def test_standard_error_covers_the_truth(narrow: Task) -> None:
    """Of independent searches, about 95 in 100 lie within two errors."""
    batches, taps = sample(narrow, 12, 12, seed=0), taps_of(narrow)
    exact, inside = every_sign(taps, batches), []
    for seed in range(50):
        hutchinson = Hutchinson(draws=20, tolerance=0.0, joint=False, seed=seed)
        for key, mean in hutchinson.traces(taps, batches, Rows(taps.keys, None, {}), quiet).items():
            assert mean.error is not None
            inside.append(abs(mean.value - exact[key]) < 2 * mean.error)
    assert len(inside) == 100 and 86 <= sum(inside) < 100


def test_draws_stop_when_every_mean_is_settled() -> None:
    keys: tuple[Key, ...] = (("a", "weight"), ("b", "weight"))
    rows = Rows(keys, None, {})
    rows.add({keys[0]: 1.0, keys[1]: 2.0})
    assert not rows.settled(1e-3)  # one draw says nothing
    rows.add({keys[0]: 1.0, keys[1]: 2.1})
    assert not rows.settled(1e-3) and rows.settled(0.03)  # b moved from 2 to 2.05
    rows.add({keys[0]: 1.0, keys[1]: 2.05})
    assert rows.settled(1e-3)


@pytest.mark.parametrize(("second", "settled"), [(1e-6, False), (1e-9, True)])
def test_means_near_zero_are_settled_within_a_millionth(second: float, settled: bool) -> None:
    """As PyHessian: a millionth is added to what the change is a part of, so that a trace of 0 ends too."""
    rows = Rows([("a", "weight")], None, {})
    rows.add({("a", "weight"): 0.0})
    rows.add({("a", "weight"): second})
    assert rows.settled(1e-3) is settled


def test_a_settled_search_makes_no_further_draw(narrow: Task) -> None:
    taps = taps_of(narrow)
    rows = Rows(taps.keys, None, {})
    Hutchinson(draws=400, tolerance=0.05, joint=False, seed=0).traces(taps, sample(narrow, 12, 4, seed=0), rows, quiet)
    assert 2 < len(rows.rows) < 400 and rows.settled(0.05)
    before = list(rows.rows)
    del rows.rows[-1]
    assert not rows.settled(0.05)
    Hutchinson(draws=400, tolerance=0.05, joint=False, seed=0).traces(taps, sample(narrow, 12, 4, seed=0), rows, quiet)
    assert rows.rows == before


def test_rows_go_on_after_a_kill_and_refuse_other_settings(smooth: Task, tmp_path: Path) -> None:
    taps, batches, path = taps_of(smooth), sample(smooth, 12, 4, seed=0), tmp_path / "traces.jsonl"
    whole = Hutchinson(draws=6, tolerance=0.0, joint=False, seed=0).traces(
        taps, batches, Rows(taps.keys, None, {}), quiet
    )
    Hutchinson(draws=4, tolerance=0.0, joint=False, seed=0).traces(
        taps, batches, Rows(taps.keys, path, {"seed": 0}), quiet
    )
    rows, made = Rows(taps.keys, path, {"seed": 0}), []
    again = Hutchinson(draws=6, tolerance=0.0, joint=False, seed=0).traces(
        taps, batches, rows, lambda steps, _text: made.append(steps)
    )
    assert made == [4, 1, 1]
    assert again == whole
    with pytest.raises(StaleRun, match="seed=0, now seed=1"):
        Rows(taps.keys, path, {"seed": 1})
    path.write_text('{"facts": {"seed": 0}, "rows": [[1.0]]}')
    with pytest.raises(StaleRun, match="holds no draws of this search of this mixbit: .* Remove it"):
        Rows(taps.keys, path, {"seed": 0})
    path.rename(path.with_suffix(".json"))
    with pytest.raises(StaleRun, match=r"traces\.json holds draws of this search as an older mixbit kept them"):
        Rows(taps.keys, path, {"seed": 0})


def test_a_draw_that_was_taken_out_by_hand_is_told(tmp_path: Path) -> None:
    """Else a later one would count twice."""
    path, keys = tmp_path / "a.jsonl", [("a", "weight")]
    for value in (1.0, 2.0, 3.0):
        Rows(keys, path, {}).add({("a", "weight"): value})
    head, first, _, last = path.read_text().splitlines()
    path.write_text("\n".join([head, first, last, ""]))
    with pytest.raises(MixbitError, match=r"a\.jsonl lacks draw 1, and has later ones. Remove it to begin anew"):
        Rows(keys, path, {})


def test_a_row_of_another_length_is_refused(tmp_path: Path) -> None:
    one, two = [("a", "weight")], [("a", "weight"), ("b", "weight")]
    Rows(one, tmp_path / "a.jsonl", {}).add({("a", "weight"): 1.0})
    with pytest.raises(MixbitError, match=r"a\.jsonl, key '0', has 1 numbers, and there are 2 tensors. Remove it"):
        Rows(two, tmp_path / "a.jsonl", {})


def test_numbers_that_are_not_finite_are_refused(smooth: Task) -> None:
    taps = taps_of(smooth)
    with pytest.raises(MixbitError, match="loss on training images is nan"):
        taps.run(torch.full((1, 1, 5, 5), float("nan")), torch.tensor([0]))
    with pytest.raises(MixbitError, match="curvature of 'a', weight, is inf"):
        Rows([("a", "weight")], None, {}).add({("a", "weight"): float("inf")})


# ------------------------------------------------------------------------------------------- Fisher and noise


def test_fisher_trace_is_the_mean_of_each_samples_own_squared_gradient(smooth: Task) -> None:
    batches, taps = sample(smooth, 12, 5, seed=0), taps_of(smooth, first_last=True)
    found = fisher_traces(taps, batches, quiet)
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    model = smooth.model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return smooth.loss(torch.func.functional_call(model, values, (x[None],)), y[None], 0.0)

    own = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for layer in smooth.network.layers:
        norms = own[layer.parameter].flatten(1).square().sum(dim=1)
        mean = found[layer.name, "weight"]
        assert mean.value == pytest.approx(norms.mean().item(), rel=1e-4) and mean.count == len(x) == 10
        assert mean.error == pytest.approx((norms.std() / len(x) ** 0.5).item(), rel=1e-4)


def test_fisher_of_a_calibrated_softmax_model_is_the_hessian() -> None:
    """If labels are as likely as the model says, the mean of squared gradients is the trace of the Hessian: here every
    image occurs with every label in the very proportion that the model gives it."""
    torch.manual_seed(6)
    model = Linear3()
    with torch.no_grad():  # logits ln(1, 2, 5): chances 1/8, 2/8, 5/8 whatever the image, through zero last weights
        model.last.bias.copy_(torch.tensor([1.0, 2.0, 5.0]).log())
        model.last.weight.zero_()
    pixels = torch.randint(0, 255, (4, 1, 5, 5), dtype=torch.uint8).repeat_interleave(8, dim=0)
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2, 2]).repeat(4)
    split = TensorSplit(pixels, labels, num_classes=3, mean=(0.5,), std=(0.25,))
    task = Task(model=model, train=split, test=split)
    batches, taps = sample(task, 32, 32, seed=0), taps_of(task, ("weight",), first_last=True)
    fisher = fisher_traces(taps, batches, quiet)["last", "weight"]
    assert fisher.value == pytest.approx(exact_weight_trace(task, "last", batches), rel=1e-4)


def test_noise_is_that_of_the_quantized_tensors(smooth: Task) -> None:
    taps, perturbation = taps_of(smooth), taps_of(smooth)._perturbation
    x = smooth.example(4)
    found = measured_noise(perturbation, taps.keys, x)
    weight = perturbation.weight("conv").detach()
    wanted = (perturbation.quantized_weight("conv", 4) - weight).square().mean()
    assert found["conv", "weight"][4] == pytest.approx(wanted.item())
    seen = []
    with perturbation.chosen({"conv": LayerBits(None, 4)}) as model:
        bank = perturbation.input_bank("conv")
        handle = bank.register_forward_hook(lambda _m, i, o: seen.append((o - i[0]).square().mean().item()))
        model(x)
        handle.remove()
    assert found["conv", "activation"][4] == pytest.approx(seen[0])
    assert found["conv", "activation"][8] < found["conv", "activation"][4] and bank.bypass


def test_uniform_noise_is_a_twelfth_of_the_squared_step(smooth: Task) -> None:
    perturbation = taps_of(smooth)._perturbation
    found = uniform_noise(perturbation, [("conv", "weight"), ("conv", "activation")])
    largest = perturbation.weight("conv").detach().flatten(1)
    steps = torch.maximum(largest.amax(1) / 7, -largest.amin(1) / 8)
    assert found["conv", "weight"][4] == pytest.approx((steps.square().mean() / 12).item(), rel=1e-5)
    assert found["conv", "activation"][8] == pytest.approx(perturbation.input_bank("conv").steps[0].item() ** 2 / 12)


def test_elements_and_reports_are_of_their_layer_and_side(smooth: Task) -> None:
    conv, hidden = (smooth.network.layer(name) for name in ("conv", "hidden"))
    assert [elements(conv, side) for side in BOTH] == [2 * 3 * 2 * 2, 3 * 3 * 3]
    assert [elements(hidden, side) for side in BOTH] == [8, 2]
    means = {
        (layer.name, side): Mean(value=float(number), error=0.5, count=2)
        for layer in (conv, hidden)
        for number, side in enumerate(BOTH)
    }
    assert listed([conv, hidden], means)["hidden"] == {
        "weight": {"trace": 0.0, "standard_error": 0.5, "elements": 8},
        "activation": {"trace": 1.0, "standard_error": 0.5, "elements": 2},
    }
    assert not_scored(smooth, [hidden], first_last=False) == ["conv: its module cannot carry a quantizer"]
    assert [line.split(":")[0] for line in not_scored(smooth, [conv], first_last=True)] == ["stem", "hidden", "head"]


def test_samples_are_not_augmented() -> None:
    pixels = torch.randint(0, 255, (6, 1, 5, 5), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    split = TensorSplit(pixels, torch.arange(6) % 3, num_classes=3, mean=(0.5,), std=(0.25,), flip=True)
    task = Task(model=Narrow(), train=split, test=split)
    ((x, _),) = sample(task, 6, 6, seed=0)
    assert torch.equal(x, next(split.batches(6, seed=0, shuffle=True))[0])
    assert not torch.equal(x, next(split.batches(6, seed=0, shuffle=True, augment=True))[0])


def test_samples_fill_batches_and_never_exceed_the_split(smooth: Task) -> None:
    assert [len(y) for _, y in sample(smooth, 10, 4, seed=0)] == [4, 4]
    assert [len(y) for _, y in sample(smooth, 500, 64, seed=0)] == [12]
    one, whole = sample(smooth, 12, 1, seed=2), sample(smooth, 12, 12, seed=2)
    assert torch.equal(torch.cat([x for x, _ in one]), whole[0][0])  # the same images, whatever the batch
    assert not torch.equal(sample(smooth, 12, 12, seed=3)[0][0], whole[0][0])
