"""The schedule: buffers, who reads them, and when they are alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mixbit.network import Network, Tensor, capture
from tests.network.conftest import Call


def conv(inputs: int = 4, outputs: int = 4, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def image() -> torch.Tensor:
    return torch.randn(2, 4, 6, 6)


def tensors(network: Network) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in network.tensors}


def life(tensor: Tensor) -> tuple[int, int]:
    return tensor.first_step, tensor.last_step


def test_convolution_norm_and_relu_are_one_buffer() -> None:
    network = capture(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), conv()), image())
    assert network.steps == ("0", "4")
    assert [(t.name, life(t), t.readers, t.read_elsewhere) for t in network.tensors] == [
        ("input", (0, 0), ("0",), False),
        ("0", (0, 1), ("4",), False),
        ("4", (1, 1), (), True),
    ]


def residual(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.bn1(self.conv1(x)))
    return F.relu(self.bn2(self.conv2(y)) + x)


def residual_in_place(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(self.bn1(self.conv1(x)), inplace=True)
    y = self.bn2(self.conv2(y))
    y += x
    return F.relu(y, inplace=True)


@pytest.mark.parametrize("forward", [residual, residual_in_place])
def test_a_residual_block_costs_the_same_however_it_is_spelled(forward: Any) -> None:
    block = Call(forward, conv1=conv(), conv2=conv(), bn1=nn.BatchNorm2d(4), bn2=nn.BatchNorm2d(4))
    network = capture(Call(lambda self, x: self.block(self.stem(x)), stem=conv(), block=block), image())
    assert network.steps == ("stem", "block.conv1", "block.conv2", "block.add")
    found = tensors(network)
    assert life(found["stem"]) == (0, 3)
    assert (found["stem"].readers, found["stem"].read_elsewhere) == (("block.conv1",), True)
    assert life(found["block.conv1"]) == (1, 2)
    assert (found["block.conv2"].readers, found["block.conv2"].read_elsewhere) == ((), True)
    assert life(found["block.add"]) == (3, 3)


def test_an_elementwise_operator_makes_a_new_tensor_when_its_input_is_read_again() -> None:
    """Pre-activation: one convolution reads the tensor before the ReLU, one after; they must not share bits."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.a(F.relu(y)).mean() + self.b(y).mean()

    network = capture(Call(forward, stem=conv(), a=conv(), b=conv()), image())
    assert network.layer("a").input_tensor == "relu"
    assert network.layer("b").input_tensor == "stem"
    assert network.ties() == (("stem",), ("a",), ("b",))


def test_views_share_their_source_and_tie_its_readers() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        left, right = y.chunk(2, dim=1)
        return self.a(left) + self.b(right) + self.c(y.permute(0, 1, 3, 2))[:, :2]

    network = capture(Call(forward, stem=conv(), a=conv(2, 2), b=conv(2, 2), c=conv()), image())
    assert network.ties() == (("stem",), ("a", "b", "c"))
    assert network.layer("a").input_shape == (2, 6, 6)
    stem = tensors(network)["stem"]
    assert (stem.shape, stem.readers, stem.read_elsewhere) == ((4, 6, 6), ("a", "b", "c"), False)
    assert tensors(network)["c"].read_elsewhere


def test_an_expanded_view_does_not_fit_into_its_source() -> None:
    network = capture(Call(lambda self, x: F.relu(x[:, :1].expand(-1, 4, -1, -1))), image()[:, :1])
    assert [(t.name, t.numel) for t in network.tensors] == [("input", 36), ("relu", 144)]


def test_unary_with_a_constant_operand_stays_in_place() -> None:
    scale = nn.Parameter(torch.ones(4, 1, 1))
    network = capture(Call(lambda self, x: self.conv(x) * self.scale + 1, conv=conv(), scale=scale), image())
    assert network.steps == ("conv",)
    assert [s.name for s in network.skipped] == ["scale"]


@pytest.mark.parametrize("pad", [nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.0)])
def test_zero_padding_in_front_of_a_convolution_belongs_to_it(pad: nn.Module) -> None:
    """TensorFlow's SAME: the runtime pads as it reads, there is no second buffer."""
    network = capture(nn.Sequential(conv(), nn.ReLU(), pad, nn.Conv2d(4, 4, 3)), image())
    assert network.steps == ("0", "3")
    assert network.layer("3").input_tensor == "0"
    assert network.layer("3").input_shape == (4, 8, 8)
    assert tensors(network)["0"].shape == (4, 6, 6)
    assert not network.layer("3").input_signed


@pytest.mark.parametrize("pad", [nn.ConstantPad2d(1, -1.0), nn.ReflectionPad2d(1)])
def test_other_padding_is_a_tensor_of_its_own(pad: nn.Module) -> None:
    network = capture(nn.Sequential(conv(), nn.ReLU(), pad, nn.Conv2d(4, 4, 3)), image())
    assert network.steps == ("0", "2", "3")
    assert network.layer("3").input_signed == isinstance(pad, nn.ConstantPad2d)


def test_a_computed_bias_is_no_input_of_the_layer() -> None:
    class Shifted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight, x.mean(0).sum() + self.bias)

    network = capture(nn.Sequential(nn.Linear(4, 4), Shifted(4, 4)), torch.randn(2, 4))
    assert network.ties() == (("0",), ("1",))
    assert network.layer("1").input_tensor == "0"
    assert tensors(network)["1.sum"].readers == ()
    assert tensors(network)["1.sum"].read_elsewhere


def test_a_module_that_pads_by_itself_is_given_the_tensor_before() -> None:
    network = capture(nn.Sequential(conv(), nn.ReLU(), conv(padding_mode="reflect")), image())
    assert (network.steps, network.layer("2").input_shape) == (("0", "2"), (4, 6, 6))


def test_padding_that_is_read_elsewhere_is_a_tensor() -> None:
    """CIFAR's parameter-free shortcut: every second pixel, and zeros for the new channels."""
    network = capture(
        Call(
            lambda self, x: self.conv(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)),
            conv=nn.Conv2d(4, 8, 3, stride=2, padding=1),
        ),
        image(),
    )
    assert network.steps == ("conv", "pad", "add")
    assert tensors(network)["pad"].shape == (8, 3, 3)
    assert life(tensors(network)["input"]) == (0, 1)


def test_several_results_are_several_buffers() -> None:
    def forward(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = x.max(dim=1)
        return self.conv(values.unsqueeze(1)), indices

    network = capture(Call(forward, conv=conv(1, 1)), image())
    assert [t.name for t in network.tensors] == ["input", "max", "max[1]", "conv"]
    assert network.layer("conv").input_tensor == "max"
    assert life(tensors(network)["max[1]"]) == (0, 1)


def test_writing_into_a_part_of_a_tensor_is_a_step_without_a_buffer() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y[:, :2] = F.relu(y[:, 2:])
        return self.last(y)

    network = capture(Call(forward, conv=conv(), last=conv()), image())
    assert network.steps == ("conv", "relu", "copy", "last")
    assert [t.name for t in network.tensors] == ["input", "conv", "relu", "last"]
    assert network.layer("last").input_tensor == "conv"
    assert network.layer("last").input_signed


def test_a_partial_write_does_not_keep_its_target_from_being_overwritten() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y[:, 0] = 0
        return self.last(F.relu(y))

    network = capture(Call(forward, conv=conv(), last=conv()), image())
    assert network.steps == ("conv", "fill", "last")
    assert network.layer("last").input_tensor == "conv"


def test_dropout_in_evaluation_is_its_input() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        return self.a(F.dropout(y, training=self.training)) @ self.b(y)

    network = capture(Call(forward, stem=conv(), a=conv(), b=conv()), image())
    assert network.ties() == (("stem",), ("a", "b"))


def test_filling_an_empty_tensor() -> None:
    """The buffer depends on the input from the moment it is written, though it was made from its shape alone."""

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        out = x.new_zeros(x.shape[0], 8, 6, 6)
        out[:, :4] = self.a(x)
        out[:, 4:] = F.relu(x)
        return self.b(out)

    network = capture(Call(forward, a=conv(), b=conv(8, 8)), image())
    b = network.layer("b")
    assert (b.input_tensor, b.input_signed) == ("new_zeros", True)
    assert tensors(network)["new_zeros"].readers == ("b",)


def test_inputs_and_outputs() -> None:
    def forward(self: Any, x: torch.Tensor, unused: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        middle = self.a(x)
        return {"middle": middle, "end": self.b(F.avg_pool2d(middle, 2)) + y.mean()}

    network = capture(Call(forward, a=conv(), b=conv()), (image(), image(), image()))
    found = tensors(network)
    names = [t.name for t in network.tensors if t.name.startswith("input")]
    assert len(names) == 3
    assert [found[name].readers for name in names] == [("a",), (), ()]
    assert [life(found[name])[0] for name in names] == [0, 0, 0]
    # The caller reads both outputs after the last step.
    assert life(found["a"]) == (0, len(network.steps) - 1)
    assert found["a"].read_elsewhere
    assert found["add"].read_elsewhere


def test_a_module_that_is_called_twice_writes_two_buffers() -> None:
    network = capture(Call(lambda self, x: self.pool(self.pool(x)), pool=nn.MaxPool2d(2)), image()[:, :, :4, :4])
    assert network.steps == ("pool", "pool:2")


def test_a_model_without_operators() -> None:
    network = capture(nn.Identity(), image())
    assert (network.steps, network.layers) == ((), ())
    assert life(network.tensors[0]) == (0, 0)
