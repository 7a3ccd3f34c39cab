"""The records: JSON, fingerprint, ties, look-up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mixbit.errors import MixbitError
from mixbit.network import FloatParameter, Join, Layer, LayerKind, Network, Skipped, Tensor, capture

NAMES = st.text(min_size=1, max_size=12)
SHAPES = st.lists(st.integers(1, 2**40), max_size=4).map(tuple)
COUNTS = st.integers(0, 2**62)


def records(cls: type, **fields: Any) -> Any:
    return st.builds(lambda **values: cls(**values), **fields)


LAYERS = records(
    Layer,
    name=NAMES,
    kind=st.sampled_from(LayerKind.__args__),  # type: ignore[attr-defined]
    parameter=NAMES,
    weight_shape=SHAPES,
    groups=COUNTS,
    macs=COUNTS,
    macs_limpq=COUNTS,
    input_shape=SHAPES,
    output_shape=SHAPES,
    input_tensor=NAMES,
    output_tensor=NAMES,
    input_signed=st.booleans(),
)
TENSORS = records(
    Tensor,
    name=NAMES,
    shape=SHAPES,
    first_step=COUNTS,
    last_step=COUNTS,
    readers=st.lists(NAMES, max_size=3).map(tuple),
    read_elsewhere=st.booleans(),
)
NETWORKS = records(
    Network,
    layers=st.lists(LAYERS, max_size=3).map(tuple),
    tensors=st.lists(TENSORS, max_size=3).map(tuple),
    steps=st.lists(NAMES, max_size=3).map(tuple),
    joins=st.lists(
        records(Join, name=NAMES, kind=st.sampled_from(["add", "concat"]), layers=st.lists(NAMES).map(tuple)),
        max_size=2,
    ).map(tuple),
    skipped=st.lists(records(Skipped, name=NAMES, reason=NAMES, macs=COUNTS), max_size=2).map(tuple),
    other_macs=COUNTS,
    float_parameters=st.lists(
        records(FloatParameter, name=NAMES, size=COUNTS, reason=NAMES, macs=COUNTS), max_size=2
    ).map(tuple),
)


@given(NETWORKS)
def test_json_round_trip(network: Network) -> None:
    assert Network.from_json(network.to_json()) == network


@pytest.fixture(scope="module")
def network() -> Network:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    return capture(model, torch.randn(1, 3, 6, 6))


def edited(network: Network, change: Any) -> str:
    body = json.loads(network.to_json())
    change(body)
    return json.dumps(body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("format"), "format is None"),
        (lambda b: b.update(format="mixbit-policy"), "format is 'mixbit-policy'"),
        (lambda b: b.update(version=3), "version 3"),
        (lambda b: b.update(extra=1), "extra"),
        (lambda b: b.pop("joins"), "joins"),
        (lambda b: b["layers"][0].update(macs="many"), "'layers' > '0' > 'macs'"),
        (lambda b: b["layers"][0].update(macs=1.5), "'layers' > '0' > 'macs'"),
        (lambda b: b["layers"][0].update(kind="conv9d"), "'layers' > '0' > 'kind'"),
        (lambda b: b["layers"][0].update(colour="red"), "'layers' > '0' > 'colour'"),
        (lambda b: b["tensors"][0].update(read_elsewhere="yes"), "'tensors' > '0' > 'read_elsewhere'"),
        (lambda b: b.update(layers={}), "layers"),
    ],
)
def test_malformed_files(network: Network, change: Any, message: str) -> None:
    with pytest.raises(MixbitError, match=message):
        Network.from_json(edited(network, change))


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '{"format": "mixbit-network"}', "\x00"])
def test_what_is_no_network_file(text: str) -> None:
    with pytest.raises(MixbitError):
        Network.from_json(text)


def test_the_fingerprint_is_structure_alone(network: Network) -> None:
    torch.manual_seed(1)
    build = lambda outputs=4: nn.Sequential(  # noqa: E731
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, outputs, 3), nn.Flatten(), nn.Linear(outputs * 16, 2)
    )
    assert capture(build(), torch.randn(3, 3, 6, 6)).fingerprint == network.fingerprint
    assert capture(build(5), torch.randn(1, 3, 6, 6)).fingerprint != network.fingerprint
    assert replace(network, layers=network.layers[:2]).fingerprint != network.fingerprint
    grouped = replace(network.layers[1], groups=2)
    assert replace(network, layers=(network.layers[0], grouped, network.layers[2])).fingerprint != network.fingerprint
    assert network.fingerprint.startswith("sha256:")
    assert len(network.fingerprint) == len("sha256:") + 16


def test_the_fingerprint_is_the_same_for_ever(network: Network) -> None:
    """Policies on disk carry it: a change of this value is a change of the file format."""
    assert network.fingerprint == "sha256:39aa583d13533ed1"


def test_layers_by_name(network: Network) -> None:
    assert network.layer("2").weight_shape == (4, 4, 3, 3)
    body = replace(network, layers=(replace(network.layers[0], name="layer1.0.conv1"),))
    with pytest.raises(MixbitError, match=r"unknown layer 'layer1.0.conv'. Did you mean 'layer1.0.conv1'\?"):
        body.layer("layer1.0.conv")
    skipped = replace(network, skipped=(Skipped(name="fc", reason="weight used 2 times"),))
    with pytest.raises(MixbitError, match="It was skipped: weight used 2 times"):
        skipped.layer("fc")


def test_ties_hold_every_layer_once_in_order(network: Network) -> None:
    first, second, third = network.layers
    tied = replace(network, layers=(first, second, replace(third, input_tensor=first.input_tensor)))
    assert network.ties() == (("0",), ("2",), ("4",))
    assert tied.ties() == (("0", "4"), ("2",))


def test_macs_are_all_macs(network: Network) -> None:
    assert network.macs == sum(layer.macs for layer in network.layers)
    assert replace(network, other_macs=7).macs == network.macs + 7
