"""One call moves banks and norms; what is selected a sample, or mixed, is what single bit-widths give."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixbit.cost import LayerBits
from mixbit.errors import MixbitError
from mixbit.integer import lower, run
from mixbit.network import Network, capture
from mixbit.quantization import QuantizeConfig, attach, calibrate, detach, quantized_layers, quantizers
from mixbit.supernet import Mixture, PerLayer, PerSample, Uniform, make_switchable, select, settle

X = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))
ALL = ("conv1", "conv2", "head")


class Net(nn.Module):
    """A residual network with two norms and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)) + x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def made(norms: Any = "bits", bits: tuple[int, ...] = (8, 4, 2), **ends: tuple[int, ...]) -> tuple[Net, Network]:
    torch.manual_seed(1)
    model = Net().eval()
    network = capture(model, X)
    attach(model, network, {name: (ends.get(name, bits), ends.get(name, bits)) for name in ALL}, QuantizeConfig())
    make_switchable(model, X, norms)
    for width in bits:
        select(model, width)
        calibrate(model, [X], every_row=False)
    with torch.no_grad():  # so that the rows of norms differ
        for name in ("bn1", "bn2"):
            norm = model.get_submodule(name)
            norm.weight.add_(torch.randn(norm.weight.shape) * 0.2)
            norm.running_mean.add_(torch.randn(norm.running_mean.shape) * 0.2)
    return model, network


def bits_of(model: nn.Module) -> list[tuple[int, int]]:
    return [
        (layer.weight_quantizer.selected, layer.input_quantizer.selected)  # type: ignore[union-attr]
        for layer in quantized_layers(model).values()
    ]


def test_uniform_moves_what_has_a_choice_and_the_norms_behind_it() -> None:
    model, _ = made(head=(8,))
    select(model, Uniform(2))
    assert bits_of(model) == [(2, 2), (2, 2), (8, 8)] and [int(model.bn1.row), int(model.bn2.row)] == [2, 2]
    select(model, Uniform(8, 4))
    assert bits_of(model) == [(8, 4), (8, 4), (8, 8)] and int(model.bn1.row) == 1, "the coarser of the two"
    select(model, 8)
    assert bits_of(model) == [(8, 8)] * 3 and int(model.bn2.row) == 0


def test_each_layer_its_own_and_what_is_not_named_stays() -> None:
    model, _ = made(norms="pair")
    select(model, 8)
    select(model, PerLayer({"conv2": LayerBits(4, 2), "head": LayerBits(None, 4)}))
    assert bits_of(model) == [(8, 8), (4, 2), (8, 4)]
    assert model.bn1.keys[int(model.bn1.row)] == (8, 8) and model.bn2.keys[int(model.bn2.row)] == (4, 2)
    select(model, {"conv2": LayerBits(2, None)})
    assert bits_of(model)[1] == (2, 2) and model.bn2.keys[int(model.bn2.row)] == (2, 2)


ORDERS = {
    "beside each other": [4, 4, 4, 2, 2, 2],
    "in turns": [2, 8, 2, 8, 4, 2],
    "all the same": [4] * 6,
}


@pytest.mark.parametrize("norms", ["shared", "bits"])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_each_sample_gets_what_its_bits_alone_would_give(order: list[int], norms: str) -> None:
    model, _ = made(norms=norms)
    select(model, PerSample(ALL, torch.tensor(order)[:, None].expand(-1, 3)))
    found = model(X)
    for at, width in enumerate(order):
        select(model, width)
        torch.testing.assert_close(found[at : at + 1], model(X[at : at + 1]), rtol=1e-4, atol=1e-5)


def test_layers_and_sides_differ_within_a_sample() -> None:
    model, _ = made()
    bits = torch.tensor([[[8, 4], [2, 8], [4, 4]], [[4, 4], [8, 8], [2, 4]], [[8, 2], [4, 8], [8, 8]]])
    select(model, PerSample(ALL, bits))
    found = model(X[:3])
    for at in range(3):
        select(model, {name: LayerBits(*map(int, bits[at, i])) for i, name in enumerate(ALL)})
        torch.testing.assert_close(found[at : at + 1], model(X[at : at + 1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_a_mixed_batch_are_the_sums_of_its_parts(layout: torch.memory_format) -> None:
    """In training mode too: a norm a bit-width sees the samples of its own bits alone."""
    model, _ = made()
    model.to(memory_format=layout).train()  # type: ignore[call-overload]
    twin, order = copy.deepcopy(model), torch.tensor([2, 8, 2, 8, 8, 2])
    x = X.to(memory_format=layout).clone().requires_grad_()
    select(model, PerSample(ALL, order[:, None].expand(-1, 3)))
    up = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))
    model(x).mul(up).sum().backward()
    alone = X.clone().requires_grad_()
    for width in (2, 8):
        select(twin, width)
        # The step's gradient scale is of one sample in both, so the sums are the sums.
        twin(alone[order == width]).mul(up[order == width]).sum().backward()
    torch.testing.assert_close(x.grad, alone.grad, rtol=1e-4, atol=1e-5)
    theirs = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-4, msg=name)
    assert torch.equal(model.bn1.num_batches_tracked, twin.bn1.num_batches_tracked)


@pytest.mark.parametrize("activations", ["lsq", "batchquant"])
def test_one_backward_goes_through_passes_under_several_selections(activations: Any) -> None:
    """Its gradients are the sums of those of a backward after each pass."""
    gradients = []
    for at_once in (True, False):
        torch.manual_seed(1)
        model = Net().eval()
        attach(model, capture(model, X), dict.fromkeys(ALL, ((8, 2), (8, 2))), QuantizeConfig(activations=activations))
        make_switchable(model, X)
        calibrate(model, [X])
        model.train()
        losses = []
        for bits in (8, 2):
            select(model, bits)
            losses.append(model(X).square().sum())
            if not at_once:
                losses[-1].backward()
        if at_once:
            sum(losses).backward()  # type: ignore[union-attr]
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) >= 12
    for name, found in gradients[0].items():
        wanted = gradients[1][name]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()), msg=name)


def test_a_mixture_is_the_weighted_sum_and_its_weights_learn() -> None:
    model, _ = made(norms="shared")
    layer = quantized_layers(model)["conv1"]
    shares = [torch.tensor([0.2, 0.3, 0.5], requires_grad=True), torch.tensor([0.6, 0.4, 0.0], requires_grad=True)]
    select(model, Mixture({"conv1": (shares[0], shares[1])}))
    found = layer(X)
    weight, inputs = layer.weight_quantizer, layer.input_quantizer
    assert weight is not None and inputs is not None
    parts = [[bank.with_row(t, row) for row in range(3)] for bank, t in ((weight, layer.weight), (inputs, X))]
    mixed = [sum(p * part for p, part in zip(s, of, strict=True)) for s, of in zip(shares, parts, strict=True)]
    wanted = nn.functional.conv2d(mixed[1], mixed[0], layer.bias, padding=1)  # type: ignore[arg-type]
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad(found.square().sum(), shares)
    torch.testing.assert_close(ours, torch.autograd.grad(wanted.square().sum(), shares))
    select(model, 4)
    assert torch.equal(layer(X), nn.functional.conv2d(parts[1][1], parts[0][1], layer.bias, padding=1))


def test_a_mixture_with_a_share_of_float_adds_the_tensor_as_it_is() -> None:
    model, _ = made(norms="shared")
    layer = quantized_layers(model)["conv1"]
    shares = [torch.tensor([0.1, 0.2, 0.3, 0.4], requires_grad=True), torch.tensor([0.5, 0.0, 0.0, 0.25])]
    select(model, Mixture({"conv1": (shares[0], shares[1])}))
    weight, inputs = layer.weight_quantizer, layer.input_quantizer
    assert weight is not None and inputs is not None
    parts = [[*(bank.with_row(t, row) for row in range(3)), t] for bank, t in ((weight, layer.weight), (inputs, X))]
    mixed = [sum(p * part for p, part in zip(s, of, strict=True)) for s, of in zip(shares, parts, strict=True)]
    wanted = nn.functional.conv2d(mixed[1], mixed[0], layer.bias, padding=1)  # type: ignore[arg-type]
    found = layer(X)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad(found.square().sum(), shares[:1])
    torch.testing.assert_close(ours, torch.autograd.grad(wanted.square().sum(), shares[:1]))


def test_a_mixture_of_weights_of_their_own_quantizes_each_by_itself() -> None:
    model, _ = made(norms="shared")
    layer = quantized_layers(model)["conv1"]
    latents = torch.randn(3, *layer.weight.shape, requires_grad=True)
    share = torch.tensor([0.2, 0.3, 0.5])
    select(model, Mixture({"conv1": (share, None)}, latents={"conv1": latents}))
    bank, inputs = layer.weight_quantizer, layer.input_quantizer
    assert bank is not None and inputs is not None
    mixed = sum(share[row] * bank.with_row(latents[row], row) for row in range(3))
    wanted = nn.functional.conv2d(inputs(X), mixed, layer.bias, padding=1)  # type: ignore[arg-type]
    found = layer(X)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad(found.square().sum(), latents)
    torch.testing.assert_close(ours, torch.autograd.grad(wanted.square().sum(), latents))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    select(model, Mixture({"conv1": (share, None)}))  # the next selection shares the layer's weight again
    mixed = sum(share[row] * bank.with_row(layer.weight, row) for row in range(3))
    again = nn.functional.conv2d(inputs(X), mixed, layer.bias, padding=1)  # type: ignore[arg-type]
    torch.testing.assert_close(layer(X), again)
    select(model, 4)
    assert bank.latents is None


def test_a_compiled_network_is_compiled_once() -> None:
    from torch._dynamo.testing import CompileCounter

    model, _ = made()
    counter = CompileCounter()
    fast = torch.compile(model, backend=counter, fullgraph=True)
    outputs = []
    for choice in (8, 4, 2, {"conv1": LayerBits(8, 2), "head": LayerBits(4, 8)}):
        select(model, choice)
        outputs.append(fast(X))
        torch.testing.assert_close(outputs[-1], model(X))
    assert counter.frame_count == 1 and not torch.equal(outputs[0], outputs[2])


def test_a_settled_network_is_an_ordinary_one_with_the_numbers_of_the_selection() -> None:
    model, network = made()
    choice = {"conv1": LayerBits(4, 8), "conv2": LayerBits(2, 4), "head": LayerBits(8, 8)}
    select(model, choice)
    wanted = model(X)
    settle(model)
    assert torch.equal(model(X), wanted)
    assert all(
        bank.bits == (bits,)
        for name, layer in quantized_layers(model).items()
        for bank, bits in (
            (layer.weight_quantizer, choice[name].weight_bits),
            (layer.input_quantizer, choice[name].activation_bits),
        )
        if bank is not None
    )
    assert type(model.bn1) is nn.BatchNorm2d
    graph = lower(model, network, [X])
    torch.testing.assert_close(torch.from_numpy(run(graph, X.numpy())), wanted, rtol=0, atol=0.05)
    detach(model)
    assert type(model.conv1) is nn.Conv2d


WRONG: dict[str, tuple[Any, str]] = {
    "bits of no bank": (3, "layer 'conv1' has no 3 bits. Legal: 8, 4, 2"),
    "a layer without a bank": (
        PerLayer({"conv3": LayerBits(4, 4)}),
        r"layer 'conv3' carries no quantizers.*conv1",
    ),
    "bits of one layer": (PerLayer({"conv1": LayerBits(4, 4), "head": LayerBits(5, 4)}), "layer 'head' has no 5 bits"),
    "samples of one layer": (PerSample(("conv1", "head"), torch.full((6, 3), 4)), r"Legal: whole numbers \(N, 2\)"),
    "bits that are no numbers": (PerSample(("head",), torch.full((6, 1), 4.0)), "dtype torch.float32 for 1 layers"),
    "no samples": (PerSample(("head",), torch.zeros(0, 1, dtype=torch.long)), "N at least 1"),
    "a sample's bits": (PerSample(("conv1",), torch.tensor([[4], [6]])), "layer 'conv1' has no 6 bits"),
    "a mixture over norms": (Mixture({"conv1": (torch.ones(3), None)}), "layer 'conv1' has norms a bit-width"),
    "a mixture's shape": (
        Mixture({"head": (torch.ones(2), None)}),
        r"layer 'head': probabilities of shape \(2,\) .* Legal: \(3,\)",
    ),
    "a sample's layer twice": (PerSample(("head", "head"), torch.full((6, 2), 4)), "layer 'head' is named twice"),
    "a list for a tensor": (PerSample(("head",), [[4]]), "bits of list for 1 layers"),  # type: ignore[arg-type]
    "truth values for bits": (PerSample(("head",), torch.ones(6, 1, dtype=torch.bool)), "dtype torch.bool for 1"),
    "bits without their class": ({"head": (4, 4)}, r"layer 'head': \(4, 4\) are no bits. Legal: LayerBits"),
    "a mixture's latents": (
        Mixture({"head": (torch.ones(3), None)}, latents={"head": torch.ones(2, 3, 4)}),
        "layer 'head': latents of 2 bit-widths for a bank of 3",
    ),
    "latents of another layer": (
        Mixture({"head": (torch.ones(3), None)}, latents={"tail": torch.ones(3, 3, 4)}),
        "layer 'tail' carries no quantizers here",
    ),
    "a mixture's list": (Mixture({"head": ([1.0, 0, 0], None)}), "Legal: a pair of tensors"),  # type: ignore[dict-item]
    "one side of a mixture": (Mixture({"head": torch.ones(3)}), "Legal: a pair of tensors"),  # type: ignore[dict-item]
    "no selection": ("4", "str is no selection. Legal: Uniform"),
}


@pytest.mark.parametrize(("selection", "told"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_selected_is_refused_and_moves_nothing(selection: Any, told: str) -> None:
    model, _ = made()
    select(model, 8)
    with pytest.raises(MixbitError, match=told):
        select(model, selection)
    assert bits_of(model) == [(8, 8)] * 3 and int(model.bn1.row) == 0
    assert all(bank.rows is None and bank.mixture is None for bank in quantizers(model).values())


def test_a_batch_of_another_length_is_refused() -> None:
    model, _ = made()
    select(model, PerSample(ALL, torch.tensor([[2] * 3, [4] * 3])))
    with pytest.raises(MixbitError, match=r"selected for 2 samples, and a layer's input has shape \(6, 3, 6, 6\)"):
        model(X)


def test_several_bits_at_once_cannot_be_settled() -> None:
    model, _ = made()
    select(model, PerSample(("conv1",), torch.tensor([[2], [4]])))
    with pytest.raises(MixbitError, match="layer 'conv1' has several bits in use at once"):
        settle(model)


def test_a_model_without_quantizers_is_told() -> None:
    with pytest.raises(MixbitError, match="carries no quantizers"):
        select(Net(), 4)


@pytest.mark.parametrize(
    "change", [lambda m: detach(m), lambda m: setattr(m, "head", nn.Linear(4, 3))], ids=["taken off", "replaced"]
)
def test_what_was_found_of_a_model_is_found_again_when_it_changes(change: Callable[[nn.Module], None]) -> None:
    model, _ = made()
    select(model, 4)
    change(model)
    with pytest.raises(MixbitError, match="carries no quantizers"):
        select(model, {"head": LayerBits(2, 2)})


def test_a_copy_has_banks_of_its_own() -> None:
    model, _ = made()
    select(model, 4)
    twin = copy.deepcopy(model)
    select(twin, 2)
    assert bits_of(model) == [(4, 4)] * 3 and bits_of(twin) == [(2, 2)] * 3


@pytest.mark.parametrize("around", [nn.Sequential, nn.DataParallel], ids=["a part", "data parallel"])
def test_norms_move_too_where_the_model_is_a_part_of_another(around: Callable[[nn.Module], nn.Module]) -> None:
    model, _ = made()
    select(model, 2)
    wanted = model(X)
    select(model, 8)
    select(around(model), 2)
    assert [int(model.bn1.row), int(model.bn2.row)] == [2, 2] and torch.equal(model(X), wanted)


def test_a_part_that_has_norms_without_their_layers_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    attach(model, capture(model, X), {"0": ([8, 4], [8, 4]), "1.2": ([8, 4], [8, 4])})
    make_switchable(model, X)
    with pytest.raises(MixbitError, match="the norm '0' stands behind layer '0', which carries no quantizers here"):
        select(model[1], 4)


@pytest.mark.parametrize("before", ["a sample", "mixed"])
def test_a_uniform_selection_also_ends_what_a_layer_without_a_choice_had(before: str) -> None:
    model, _ = made("shared", head=(8,))
    select(model, 4)
    wanted = model(X[:2])
    pinned = torch.full((6, 1), 8)
    half = Mixture({"head": (torch.tensor([0.5]), torch.tensor([0.5]))})
    select(model, PerSample(("head",), pinned) if before == "a sample" else half)
    select(model, 4)
    assert torch.equal(model(X[:2]), wanted)
    settle(model)


def test_a_side_that_stays_at_several_bits_leaves_the_norm_without_a_row() -> None:
    model, _ = made()
    select(model, PerSample(("conv1",), torch.tensor([[2], [4]])))
    with pytest.raises(MixbitError, match="layer 'conv1' has several bits in use at once on the side that is to stay"):
        select(model, {"conv1": LayerBits(8, None)})


def test_a_copy_of_a_mixture_has_its_numbers() -> None:
    model, _ = made("shared")
    weights = torch.tensor([0.5, 1.0, 0.0], requires_grad=True)
    select(model, Mixture(dict.fromkeys(ALL, (weights.softmax(0), weights.softmax(0)))))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(X), model(X))
    twin(X).sum().backward()
    assert weights.grad is None
    model(X).sum().backward()
    assert weights.grad is not None


def test_an_exported_program_has_the_bits_of_each_sample() -> None:
    model, _ = made()
    select(model, PerSample(ALL, torch.tensor([2, 8, 2, 8, 4, 2])[:, None].expand(-1, 3)))
    program = torch.export.export(model, (X,)).module()
    torch.testing.assert_close(program(X), model(X))


@pytest.mark.parametrize("norms", ["shared", "bits"])
def test_an_empty_batch_has_no_outputs(norms: str) -> None:
    model, _ = made(norms)
    select(model, 4)
    assert model(X[:0]).shape == (0, 3)
