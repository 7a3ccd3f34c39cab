"""Capture of whole networks: the zoo, against torch's own counter and against each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixbit import models
from mixbit.network import Network, capture
from tests.needs import need

# Name -> layers, adds of two tensors, MACs of one sample (published totals, or torch's counter).
ZOO = {
    "resnet20": (20, 9, 40_551_040),
    "resnet18": (21, 8, 1_814_073_344),
    "resnet50": (54, 16, 4_089_184_256),
    "mobilenetv2": (53, 10, 300_774_272),
    "ds-cnn": (10, 0, 2_656_768),
    "mobilenetv1-0.25": (28, 0, 7_489_664),
    "resnet8": (10, 3, 12_501_632),
    "ad-autoencoder": (10, 0, 264_192),
}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = models.build(name)
    return model, torch.randn(2, *models.info(name).input_shape)


@cache
def captured(name: str) -> Network:
    torch.set_num_threads(1)
    return capture(*build(name))


def counted(model: nn.Module, x: torch.Tensor) -> float:
    """MACs of one sample by torch, with attention as plain products so that they are seen."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    return int(counter.get_total_flops()) / 2 / x.shape[0]


@pytest.mark.parametrize("name", ZOO)
def test_layers_joins_and_macs_of_the_zoo(name: str) -> None:
    network = captured(name)
    layers, adds, macs = ZOO[name]
    assert (len(network.layers), len(network.joins), network.macs, network.other_macs) == (layers, adds, macs, 0)
    assert network.skipped == ()


@pytest.mark.parametrize("name", ZOO)
def test_total_macs_equal_flop_counter_mode(name: str) -> None:
    assert captured(name).macs == counted(*build(name))


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2", "ds-cnn", "mobilenetv1-0.25"])
def test_macs_of_every_layer_equal_flop_counter_mode(name: str) -> None:
    model, x = build(name)
    network = captured(name)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(x)
    by_module = counter.get_flop_counts()
    for layer in network.layers:
        (flops,) = by_module[f"{type(model).__name__}.{layer.name}"].values()
        assert (layer.name, layer.macs) == (layer.name, flops / 2 / x.shape[0])


@pytest.mark.parametrize("name", ZOO)
def test_names_are_modules_and_parameters(name: str) -> None:
    model, _ = build(name)
    parameters = dict(model.named_parameters())
    for layer in captured(name).layers:
        assert parameters[layer.parameter] is model.get_submodule(layer.name).weight
        assert layer.weight_shape == tuple(parameters[layer.parameter].shape)


@pytest.mark.parametrize("name", ZOO)
def test_shapes_are_those_that_modules_see(name: str) -> None:
    model, x = build(name)
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def watch(path: str) -> Callable[..., None]:
        return lambda module, args, out: seen.update({path: (tuple(args[0].shape[1:]), tuple(out.shape[1:]))})

    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(watch(path))
    with torch.no_grad():
        model.eval()(x)
    assert {layer.name: (layer.input_shape, layer.output_shape) for layer in captured(name).layers} == seen
    assert [layer.name for layer in captured(name).layers] == list(seen)


@pytest.mark.parametrize("name", [*ZOO, "vit"])
def test_the_schedule_is_consistent(name: str) -> None:
    network = capture(*small_vit()) if name == "vit" else captured(name)
    tensors = {tensor.name: tensor for tensor in network.tensors}
    assert len(tensors) == len(network.tensors)
    assert len(set(network.steps)) == len(network.steps)
    for tensor in network.tensors:
        assert 0 <= tensor.first_step <= tensor.last_step < len(network.steps)
        assert tensor.name == "input" or network.steps[tensor.first_step] == tensor.name
        assert tensor.readers or tensor.read_elsewhere
    for layer in network.layers:
        step = network.steps.index(layer.name)
        assert layer.name in tensors[layer.input_tensor].readers
        assert tensors[layer.input_tensor].first_step <= step <= tensors[layer.input_tensor].last_step
        assert tensors[layer.output_tensor].first_step == step
    assert sorted(r for t in network.tensors for r in t.readers) == sorted(layer.name for layer in network.layers)
    names = {layer.name for layer in network.layers}
    assert all(set(join.layers) <= names for join in network.joins)


def test_limpqs_counting_of_a_residual_network_by_hand() -> None:
    """Its area is not whole where a side is halved: 112.5, 28.5, 14.5 and 7.5, the product truncated."""
    network = captured("resnet18")
    strided = {"conv1": 112.5, "layer2.0.conv1": 28.5, "layer3.0.conv1": 14.5, "layer4.0.conv1": 7.5}
    for layer in network.layers:
        side = strided.get(layer.name) or (layer.output_shape[-1] if layer.kind == "conv2d" else 1)
        if layer.name.endswith("downsample.0"):
            side = layer.output_shape[-1] + 0.5  # (56 - 1) / 2 + 1 = 28.5
        assert layer.macs_limpq == int(side * side) * layer.weights, layer.name
    assert sum(layer.macs_limpq != layer.macs for layer in network.layers) == 7


def test_what_shares_a_tensor_in_a_residual_network() -> None:
    ties = {group for group in captured("resnet18").ties() if len(group) > 1}
    assert ties == {(f"layer{n}.0.conv1", f"layer{n}.0.downsample.0") for n in (2, 3, 4)}
    assert all(len(group) == 1 for group in captured("resnet20").ties()), "its shortcuts have no weights"


def test_inputs_behind_a_relu_are_unsigned() -> None:
    assert [layer.name for layer in captured("resnet50").layers if layer.input_signed] == ["conv1"]
    signed = [layer.name for layer in captured("mobilenetv2").layers if layer.input_signed]
    # Its projections have no activation behind them: the expansions that follow read signed tensors.
    projections = {f"features.{at}.conv.0.0" for at in range(2, 18)}
    assert set(signed) == {"features.0.0", "features.18.0", *projections}


def test_the_batch_of_the_example_does_not_matter() -> None:
    model, x = build("resnet20")
    assert capture(model, x[:1]) == capture(model, torch.cat([x, x, x])) == captured("resnet20")


def test_the_example_may_be_positional_or_by_name() -> None:
    model, x = build("resnet8")
    assert capture(model, (x,)) == capture(model, {"x": x}) == captured("resnet8")


def small_vit() -> tuple[nn.Module, torch.Tensor]:
    need("transformers")
    torch.manual_seed(0)
    model = models.build("vit-tiny-hf", image_size=32, patch_size=8, hidden_size=24, layers=2, heads=3, num_classes=5)
    return model, torch.randn(2, 3, 32, 32)


def test_a_vision_transformer_of_the_transformers_package() -> None:
    model, x = small_vit()
    network = capture(model, x)
    assert len(network.layers) == 1 + 2 * 6 + 1
    assert network.macs == counted(model, x)
    # 16 patches and a class token: in each of 2 blocks, queries times keys and weights times values.
    assert network.other_macs == 2 * 2 * 17 * 17 * 24
    assert len(network.joins) == 4
    tied = [group for group in network.ties() if len(group) > 1]
    assert [len(group) for group in tied] == [3, 3], "queries, keys and values read one tensor"
    assert {skipped.name.rpartition(".")[2] for skipped in network.skipped} == {"cls_token", "position_embeddings"}


def test_a_language_model_with_tied_embeddings() -> None:
    need("transformers")
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config)
    network = capture(model, {"input_ids": torch.randint(0, 50, (2, 7)), "use_cache": False})
    assert len(network.layers) == 7
    (skipped,) = network.skipped
    assert (skipped.name, skipped.macs) == ("model.embed_tokens", 7 * 32 * 50)
    assert network.other_macs == 7 * 32 * 50 + 2 * 4 * 7 * 7 * 8


def test_json_round_trip_of_a_whole_network() -> None:
    network = captured("resnet50")
    assert Network.from_json(network.to_json()) == network
