"""Which tensor is a layer's map, and that a replay gives what the model computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixbit import models
from mixbit.network import LayerMap, LayerMaps, capture, layer_maps
from tests.network.conftest import Call


def maps_of(model: nn.Module, *shape: int, follow: bool = True) -> dict[str, LayerMap]:
    return layer_maps(model.eval(), torch.randn(2, *shape), follow=follow).maps


def after(model: nn.Module, *shape: int) -> dict[str, tuple[str, ...]]:
    return {name: one.after for name, one in maps_of(model, *shape).items()}


def seen(maps: LayerMaps, x: Tensor) -> dict[str, Tensor]:
    """Copies of all maps."""
    found: dict[str, Tensor] = {}
    maps.run(x, lambda name, tensor: found.update({name: tensor.clone()}))
    return found


class Block(nn.Module):
    """A residual block; the shortcut has a convolution of its own if `project`, and is executed last."""

    def __init__(self, project: bool, activated: bool, in_place: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.down = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) if project else nn.Identity()
        self.relu, self.activated = nn.ReLU(inplace=in_place), activated

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y = y + self.down(x)
        return self.relu(y) if self.activated else y


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("project", [False, True])
def test_residual_block(project: bool, in_place: bool) -> None:
    """The shortcut's convolution is executed last, and still is not the block's last one."""
    found = after(Block(project, True, in_place), 4, 6, 6)
    assert found["conv1"] == ("batch_norm", "relu")
    assert found["conv2"] == ("batch_norm", "add", "relu")
    if project:
        assert found["down.0"] == ("batch_norm",)


def test_linear_bottleneck_is_read_after_its_batch_norm() -> None:
    assert after(Block(False, False, False), 4, 6, 6)["conv2"] == ("batch_norm",)


def test_of_two_equal_branches_the_last_one_gets_the_sum() -> None:
    model = Call(lambda self, x: torch.relu(self.a(x) + self.b(x)), a=nn.Conv2d(2, 2, 1), b=nn.Conv2d(2, 2, 1))
    assert after(model, 2, 5, 5) == {"a": (), "b": ("add", "relu")}


def test_results_with_two_readers_are_not_followed() -> None:
    model = Call(lambda self, x: (y := self.a(x), torch.relu(y) + y)[1], a=nn.Conv2d(2, 2, 1))
    assert after(model, 2, 5, 5) == {"a": ()}


def test_writing_in_place_comes_before_other_readers() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        F.relu_(y)
        return torch.cat([y, y * 2])

    model = Call(forward, a=nn.Conv2d(2, 2, 1)).eval()
    x = torch.randn(3, 2, 5, 5)
    maps = layer_maps(model, x)
    assert maps.maps["a"].after == ("relu",)
    torch.testing.assert_close(seen(maps, x)["a"], torch.relu(model.get_submodule("a")(x)))


def test_dropout_in_between_and_activation_before_the_norm() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Dropout(), nn.SiLU(), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout())
    assert after(model, 2, 5, 5) == {"0": ("silu", "batch_norm")}


def test_one_convolution_after_the_other() -> None:
    assert after(nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)), 2, 5, 5) == {"0": (), "1": ()}


def test_own_outputs() -> None:
    found = maps_of(Block(True, True, True), 4, 6, 6, follow=False)
    assert {one.tensor for one in found.values()} == {"conv1", "conv2", "down.0"} == set(found)


@pytest.mark.parametrize("name", ["resnet20", "ds-cnn"])
def test_replay_computes_what_the_model_computes(name: str) -> None:
    """Hooks on the modules see the same numbers, at another batch size too."""
    torch.manual_seed(0)
    model, shape = models.build(name).eval(), models.info(name).input_shape
    x = torch.randn(5, *shape)
    maps, layers = layer_maps(model, x[:2], follow=False), capture(model, x).layers
    wanted: dict[str, Tensor] = {}
    for layer in maps.maps:
        model.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out, layer=layer: wanted.update({layer: out.clone()})
        )
    with torch.no_grad():
        model(x)
    found = seen(maps, x)
    assert list(found) == [layer.name for layer in layers]
    assert all(torch.equal(found[layer], wanted[layer]) for layer in wanted)


def test_the_model_is_left_as_it_was() -> None:
    model = Block(True, True, True).eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(3, 4, 6, 6)
    before = x.clone()
    seen(layer_maps(model, x), x)
    assert torch.equal(x, before)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def test_attention_has_its_batch_in_the_middle() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(3, 5, 8)
    maps = layer_maps(model, x)
    assert maps.maps["self_attn.in_proj"].shape == (5, 24) and maps.maps["self_attn.in_proj"].batch_dim == 1
    assert maps.maps["linear1"].after == ("relu",)
    assert seen(maps, x)["self_attn.in_proj"].shape == (5, 3, 24)


def test_a_batch_folded_into_another_dimension_is_told() -> None:
    model = Call(lambda self, x: self.a(x.reshape(-1, 4)), a=nn.Linear(4, 4))
    assert maps_of(model, 6, 4)["a"].batch_dim == -1


class Branching(nn.Module):
    """Has no one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.b(x) if x.sum() > 0 else x


def test_without_a_graph_the_modules_outputs_are_read() -> None:
    model = Branching().eval()
    x = torch.ones(3, 2, 5, 5) * model.a.weight.sum().sign()
    with torch.no_grad():
        model.a.weight.abs_()
    maps = layer_maps(model, torch.ones(2, 2, 5, 5))
    assert "branches depend on values" in maps.reason
    found = seen(maps, x.abs())
    assert found["a"].shape == (3, 2, 5, 5) and maps.maps["a"].after == ()
    assert not model.a._forward_hooks
